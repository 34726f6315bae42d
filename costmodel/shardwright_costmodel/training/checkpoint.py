"""The state of a training on disk, so that the same command goes on where it was killed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from shardwright_costmodel.errors import CheckpointError
from shardwright_costmodel.training.fit import State


class Checkpoint:
    """States of the stages of one training, in a file that is replaced as a whole.

    Args:
        folder: Where it lies, made where there is none; None keeps nothing.
        identity: What decides the weights, as text by name: data, settings, software. A checkpoint
            of another training is refused.

    Raises:
        CheckpointError: When there is one that is damaged, or of another training.
    """

    def __init__(self, folder: str | None, identity: Mapping[str, str] | None = None) -> None:
        self._identity = dict(identity or {})
        self._states: dict[str, State] = {}
        self._path = None if folder is None else Path(folder) / "training.pt"
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot hold a checkpoint: {error}") from error
        if self._path.exists():
            self._states = self._read(self._path)

    def state(self, stage: str) -> State | None:
        """State of a stage; None when it has not begun."""
        return self._states.get(stage)

    def save(self, stage: str, state: State) -> None:
        """Keeps the state of a stage, with those of the stages before.

        Raises:
            CheckpointError: When it cannot be written; the one before stays.
        """
        if self._path is None:
            return
        self._states[stage] = state
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save({"identity": self._identity, "states": self._states}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise CheckpointError(f"{self._path}: cannot be written: {error}") from error

    def remove(self) -> None:
        """Removes it when the training is done with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, State]:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            identity, states = dict(content["identity"]), dict(content["states"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.PickleError) as error:
            raise CheckpointError(
                f"{path}: cannot be read; remove it to train anew: {error}"
            ) from error
        if identity != self._identity:
            raise CheckpointError(
                f"{path}: is of another training ({_differences(identity, self._identity)}); "
                "take another folder, or remove it to train anew"
            )
        return states


def _differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    names = [n for n in {**theirs, **ours} if theirs.get(n) != ours.get(n)]
    return "; ".join(
        f"other {name}"
        if name.startswith("data")
        else f"{name} {theirs.get(name, 'none')}, now {ours.get(name, 'none')}"
        for name in names
    )
