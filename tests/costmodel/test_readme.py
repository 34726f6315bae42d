"""The examples of costmodel/README.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright_costmodel.dataset import TABLE_STRUCT, Kind, read_part
from shardwright_costmodel.training.measurements import compute_measurements

README = (Path(__file__).parents[2] / "costmodel" / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(WRITE_A_PART,) = [block for block in BLOCKS if "pq.write_table" in block]
(LOAD_A_MODEL,) = [block for block in BLOCKS if "OnnxCostModel" in block]


def test_the_example_writes_a_part_that_training_reads(tmp_path: Path) -> None:
    (tmp_path / "DATA" / "compute").mkdir(parents=True)
    subprocess.run([sys.executable, "-c", WRITE_A_PART], cwd=tmp_path, check=True)
    part = read_part(str(tmp_path / "DATA/compute/mine.parquet"), Kind.COMPUTE)
    assert part.metadata.hardware == "my-cluster"
    assert len(compute_measurements(part)) == 1


def test_the_example_loads_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(LOAD_A_MODEL, "README.md", "exec"), {})
    assert "nvidia-h100-sxm5-80gb" in capsys.readouterr().out


def test_every_column_is_documented() -> None:
    columns = [name for kind in Kind for name in kind.schema.names]
    columns += [TABLE_STRUCT.field(i).name for i in range(TABLE_STRUCT.num_fields)]
    for column in columns:
        assert re.search(rf"`\s*{column}`", README), column
