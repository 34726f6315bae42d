from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shardwright_benchmark_worker.errors import PoolError
from shardwright_benchmark_worker.pool import POOL_BATCH_SIZE, POOL_PATH, TablePool, read_pool


def test_holds_the_tables_of_the_dataset_that_have_lookups(pool: TablePool) -> None:
    assert len(pool) == 856 - 36
    # the number of indices that Meta's locality_stats.txt states
    assert round(pool.pooling_factor.sum() * POOL_BATCH_SIZE) == 887_017_990


def test_every_histogram_sums_to_one(pool: TablePool) -> None:
    assert pool.reuse_histogram.shape == (len(pool), 17)
    np.testing.assert_allclose(pool.reuse_histogram.sum(axis=1), 1.0)
    assert pool.num_embeddings.min() >= 1


def damaged(tmp_path: Path, line: int, column: int, value: str) -> Path:
    lines = POOL_PATH.read_text(encoding="utf-8").splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    path = tmp_path / "pool.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "column", "value", "complaint"),
    [
        (5, 1, "many", "rows must be a number of at least 0, got 'many'"),
        (7, 1, "0", "rows must be a whole number of at least 1, got 0"),
        (9, 2, "-1", "pooling_factor must be a number of at least 0, got '-1'"),
        (9, 2, "nan", "pooling_factor must be a number of at least 0, got 'nan'"),
        (11, 6, "7", "bin_0 .. bin_16 must sum to 1"),
        (1, 6, "bin_zero", r"lacks the columns \['bin_0'\]"),
    ],
)
def test_damage_is_named_with_file_and_line(
    tmp_path: Path, line: int, column: int, value: str, complaint: str
) -> None:
    path = damaged(tmp_path, line, column, value)
    with pytest.raises(PoolError, match=f"pool.csv:{line}: .*{complaint}"):
        read_pool(path)


def test_a_cut_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_text(POOL_PATH.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    with pytest.raises(PoolError, match=r"pool\.csv:\d+: bin_"):
        read_pool(path)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="nowhere.csv: table pool cannot be read"):
        read_pool(tmp_path / "nowhere.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(128, 256)))
    with pytest.raises(PoolError, match="binary.csv: table pool cannot be read"):
        read_pool(binary)


def test_a_pool_without_lookups_is_refused(tmp_path: Path) -> None:
    lines = POOL_PATH.read_text(encoding="utf-8").splitlines()
    unused = [line for line in lines[1:] if line.split(",")[3] == "0"]
    path = tmp_path / "pool.csv"
    path.write_text("\n".join([lines[0], *unused]), encoding="utf-8")
    with pytest.raises(PoolError, match="no table with lookups"):
        read_pool(path)
