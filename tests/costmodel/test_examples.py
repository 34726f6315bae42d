"""The example with one's own measurements runs as it stands, and the README shows its lines."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from shardwright_costmodel.dataset import Kind, list_parts, read_part
from shardwright_costmodel.registry import Registry

COSTMODEL = Path(__file__).parents[2] / "costmodel"
EXAMPLE = COSTMODEL / "examples" / "bring_your_own.py"


def test_own_numbers_become_a_cost_model_that_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for kind in (Kind.COMPUTE, Kind.COMM, Kind.ALL_REDUCE):
        (url,) = list_parts(str(tmp_path / "data"), kind)
        metadata = read_part(url, kind).metadata
        assert metadata.source == "modelled", "numbers by a formula were measured nowhere"
        assert "SYNTHETIC" in metadata.fingerprint["device"]
    manifest = Registry(str(tmp_path / "bundles")).load("synthetic-example").manifest
    assert manifest.num_compute_measurements == 400
    assert manifest.fingerprint == {"device": ("none: SYNTHETIC numbers of an example",)}
    assert "MODELLED" in done.stdout
    predicted, formula = (
        [float(number) for number in re.findall(r"([\d.]+) ms", line)]
        for line in done.stdout.splitlines()[-2:]
    )
    for mine, true in zip(predicted, formula, strict=True):
        assert abs(mine / true - 1) < 0.5, "seconds of training on 400 operators"


def test_the_readme_shows_the_lines_of_the_example() -> None:
    readme = (COSTMODEL / "README.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "pd.read_csv" in b]
    assert textwrap.indent(block, "    ") in EXAMPLE.read_text()
