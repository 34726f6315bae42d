"""A training that was killed goes on, and ends as if nothing had happened."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shardwright_costmodel.errors import CheckpointError
from shardwright_costmodel.training.checkpoint import Checkpoint
from shardwright_costmodel.training.data import load, split_by_combination
from shardwright_costmodel.training.device import CPU
from shardwright_costmodel.training.fit import FitResult, FitSettings, State, fit
from shardwright_costmodel.training.models import CommModel
from shardwright_costmodel.training.objectives import CommObjective
from shardwright_costmodel.training.trainer import identity

SETTINGS = FitSettings(epochs=6, min_steps=1)

TRAINING = """
import json, sys
from shardwright_costmodel.training.checkpoint import Checkpoint
from shardwright_costmodel.training.data import load
from shardwright_costmodel.training.device import CPU
from shardwright_costmodel.training.fit import FitSettings
from shardwright_costmodel.training.trainer import identity, train

data, settings = load(sys.argv[1]), FitSettings(epochs=40, min_steps=1)
checkpoint = Checkpoint(sys.argv[2] or None, identity(data, settings, 1, CPU))
run = train(data, name="test", version="1", settings=settings, checkpoint=checkpoint)
print(json.dumps([run.bundle.manifest.files, [fit.epochs for fit in run.fits.values()]]))
"""


def training(url: str, checkpoint: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, url, checkpoint],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], path: Path, stage: str) -> None:
    """Kills it once the checkpoint has a state of a stage."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and stage in torch.load(path, weights_only=True)["states"]:
            break
        time.sleep(0.02)
    assert process.poll() is None, "ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, write: Callable[..., str], compute: Any, comm: Any
) -> None:
    url = write(tmp_path / "data", compute, comm)
    path = tmp_path / "checkpoint" / "training.pt"
    uninterrupted = training(url, "")
    for stage in ("compute", "forward_comm"):
        kill_after(training(url, str(path.parent)), path, stage)
    resumed = training(url, str(path.parent))
    expected, found = (json.loads(p.communicate()[0]) for p in (uninterrupted, resumed))
    assert found == expected


def some_fit(
    url: str, saved: State | None = None, save: Callable[[State], None] = lambda state: None
) -> tuple[FitResult, dict[str, Any]]:
    data = load(url).comm
    split = split_by_combination(data, 0)
    torch.manual_seed(0)
    objective = CommObjective(CommModel(), data, 0, torch.from_numpy(split.training))
    result = fit(objective, split, SETTINGS, saved=saved, save=save)
    return result, objective.module.state_dict()


@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_a_fit_goes_on_from_any_epoch(dataset_url: str, epoch: int) -> None:
    states: list[State] = []
    expected, weights = some_fit(dataset_url, save=lambda s: states.append(copy.deepcopy(s)))
    assert len(states) == 6
    again: list[State] = []
    found, other = some_fit(dataset_url, states[epoch], lambda s: again.append(copy.deepcopy(s)))
    assert found == expected and len(again) == 5 - epoch
    for name, values in weights.items():
        assert torch.equal(values, other[name])


def test_a_checkpoint_keeps_every_stage(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path / "new"), {"seed": "0"})
    assert checkpoint.state("compute") is None
    checkpoint.save("compute", {"weights": torch.ones(3)})
    checkpoint.save("forward_comm", {"progress": 0.5})
    again = Checkpoint(str(tmp_path / "new"), {"seed": "0"})
    compute, forward = again.state("compute"), again.state("forward_comm")
    assert compute is not None and torch.equal(compute["weights"], torch.ones(3))
    assert forward == {"progress": 0.5}
    again.remove()
    assert Checkpoint(str(tmp_path / "new"), {"seed": "1"}).state("compute") is None


def test_a_checkpoint_of_another_training_says_what_differs(
    dataset_url: str, tmp_path: Path, write: Callable[..., str], compute: Any, comm: Any
) -> None:
    data, other = load(dataset_url), load(write(tmp_path / "data", compute, comm))
    folder = str(tmp_path / "checkpoint")
    Checkpoint(folder, identity(data, SETTINGS, 1, CPU)).save("compute", {})
    settings = replace(SETTINGS, seed=1, learning_rate=0.5)
    with pytest.raises(CheckpointError) as raised:
        Checkpoint(folder, identity(data, settings, 1, CPU))
    assert "training.pt: is of another training (seed 0, now 1; learning_rate " in str(raised.value)
    with pytest.raises(CheckpointError, match=r"\(other data compute; other data comm; other data"):
        Checkpoint(folder, identity(other, SETTINGS, 1, CPU))


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    Checkpoint(str(tmp_path), {}).save("compute", {"weights": torch.ones(3)})
    path = tmp_path / "training.pt"
    for content in (path.read_bytes()[:300], b"", b"no checkpoint"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"training\.pt: cannot be read; remove it"):
            Checkpoint(str(tmp_path), {})


def test_a_folder_that_cannot_hold_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: cannot hold a checkpoint"):
        Checkpoint(str(tmp_path / "file"), {})
