"""Measurements wait on disk, in files that nobody has to remove."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from shardwright_costmodel.errors import DatasetError
from shardwright_costmodel.training.spool import Spool


def test_what_was_appended_is_mapped() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    spool = Spool()
    for piece in (rows[:1], rows[1:1], rows[1:700], rows[700:, :]):
        spool.append(piece)
    assert len(spool) == 1000
    mapped = spool.mapped()
    np.testing.assert_array_equal(mapped, rows)
    assert mapped.dtype == np.float32


def test_the_digest_is_of_the_content_however_it_came() -> None:
    whole, pieces, other = Spool(), Spool(), Spool()
    whole.append(np.arange(10))
    pieces.append(np.arange(4))
    pieces.append(np.arange(4, 10))
    other.append(np.arange(1, 11))
    assert whole.digest.digest() == pieces.digest.digest() != other.digest.digest()


def test_its_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool()
    spool.append(np.ones((100_000, 4), np.float32))
    assert list(tmp_path.iterdir()) == []
    mapped = spool.mapped()
    assert list(tmp_path.iterdir()) == []
    assert mapped.sum() == 400_000


def test_a_folder_that_takes_no_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(DatasetError, match="/none: measurements cannot be spooled: .* set TMPDIR"):
        Spool()
