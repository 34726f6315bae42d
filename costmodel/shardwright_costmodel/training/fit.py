"""The training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardwright_costmodel.training.data import Split
from shardwright_costmodel.training.objectives import Objective

_HUBER_DELTA = 0.02
"""Below 2 % the loss is quadratic, above it is the absolute relative error that MAPE reports."""


_SLACK_WEIGHT = 0.005
"""Weight of the mean logarithm of prediction over floor: decides among equally accurate models."""


@dataclass(frozen=True)
class FitSettings:
    """How to train.

    Attributes:
        seed: Of initial weights and batches.
        epochs: Passes over the training data, at most.
        min_steps: Small datasets are passed over more often, to reach this many steps.
        batch_size: Groups of a step, at most; smaller datasets take a hundredth of theirs.
        learning_rate: At its peak; it falls to 0 along a cosine.
        weight_decay: Of AdamW.
        patience: Share of the epochs without improvement on the validation split that ends the fit.
        max_seconds: The fit ends in this time, its schedule shortened to match; results then
            depend on the machine's speed.
    """

    seed: int = 0
    epochs: int = 60
    min_steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 2e-2
    weight_decay: float = 1e-5
    patience: float = 0.34
    max_seconds: float = math.inf


@dataclass(frozen=True)
class FitResult:
    """How a fit went.

    Attributes:
        epochs: Passes made.
        training_mape_percent: Of each pass, over its steps: weights moved meanwhile.
        validation_mape_percent: After each pass.
        best_epoch: The pass whose weights were kept.
    """

    epochs: int
    training_mape_percent: tuple[float, ...]
    validation_mape_percent: tuple[float, ...]
    best_epoch: int


State = dict[str, Any]
"""Everything that a fit goes on from: tensors, numbers and lists of them."""


def fit(
    objective: Objective,
    split: Split,
    settings: FitSettings,
    on_epoch: Callable[[float, float], None] = lambda progress, validation_mape_percent: None,
    saved: State | None = None,
    save: Callable[[State], None] = lambda state: None,
) -> FitResult:
    """Fits a model and leaves it with the weights that were best on the validation split.

    The same data, settings and thread count give the same weights, also when a fit goes on from
    the state after any epoch.

    Args:
        objective: Model and data.
        split: Which groups to train and to validate on.
        settings: How.
        on_epoch: Called after each pass with progress from 0 to 1 and the validation error.
        saved: State to go on from, of the same objective, split and settings.
        save: Called after each pass with the state after it.
    """
    fitting = _Fit(objective, split, settings)
    if saved is not None:
        fitting.restore(saved)
    while not fitting.ended:
        fitting.run_epoch()
        save(fitting.state())
        on_epoch(fitting.progress, fitting.validation_errors[-1])
    objective.module.load_state_dict(fitting.best_weights)
    return FitResult(
        epochs=len(fitting.validation_errors),
        training_mape_percent=tuple(fitting.training_errors),
        validation_mape_percent=tuple(fitting.validation_errors),
        best_epoch=fitting.best_epoch,
    )


class _Fit:
    """A fit between two epochs.

    Attributes:
        training_errors: In percent, of each pass.
        validation_errors: In percent, after each pass.
        best_weights: Of the pass with the least validation error.
        progress: From 0 to 1.
    """

    def __init__(self, objective: Objective, split: Split, settings: FitSettings) -> None:
        self._objective, self._settings = objective, settings
        self._training = torch.from_numpy(split.training)
        self._validation = torch.from_numpy(split.validation)
        self._batch_size = max(8, min(settings.batch_size, len(self._training) // 100))
        self._steps = math.ceil(len(self._training) / self._batch_size)
        self._epochs = max(settings.epochs, math.ceil(settings.min_steps / self._steps))
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._optimizer = torch.optim.AdamW(
            objective.module.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,  # a tenth of the time: the models are small
        )
        self._started = time.monotonic()
        self.training_errors: list[float] = []
        self.validation_errors: list[float] = []
        self.best_weights = copy.deepcopy(objective.module.state_dict())
        self.progress = 0.0

    @property
    def best_epoch(self) -> int:
        """The pass with the least validation error, the first of several."""
        return min(range(len(self.validation_errors)), key=self.validation_errors.__getitem__)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self.progress >= 1.0

    def run_epoch(self) -> None:
        """One pass over the training data, and over the validation data."""
        epoch = len(self.validation_errors)
        order = self._training[torch.randperm(len(self._training), generator=self._generator)]
        errors = []
        for step, batch in enumerate(torch.split(order, self._batch_size)):
            progress = self._progress(epoch + step / self._steps)
            rate = _rate(self._settings.learning_rate, progress)
            errors.append(_step(self._objective, self._optimizer, batch, rate))
        self.training_errors.append(100.0 * float(torch.stack(errors).mean()))
        self.validation_errors.append(_mape_percent(self._objective, self._validation))
        if self.best_epoch == epoch:
            self.best_weights = copy.deepcopy(self._objective.module.state_dict())
        stalled = epoch - self.best_epoch > max(10.0, self._settings.patience * self._epochs)
        self.progress = 1.0 if stalled else min(1.0, self._progress(epoch + 1))

    def state(self) -> State:
        """The state to go on from."""
        return {
            "weights": self._objective.module.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "training_errors": self.training_errors,
            "validation_errors": self.validation_errors,
            "progress": self.progress,
            "seconds": time.monotonic() - self._started,
        }

    def restore(self, state: State) -> None:
        """Goes back to a state."""
        self._objective.module.load_state_dict(state["weights"])
        self.best_weights = state["best_weights"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.training_errors = list(state["training_errors"])
        self.validation_errors = list(state["validation_errors"])
        self.progress = state["progress"]
        self._started = time.monotonic() - state["seconds"]

    def _progress(self, epochs: float) -> float:
        elapsed = (time.monotonic() - self._started) / self._settings.max_seconds
        return max(epochs / self._epochs, elapsed)


def _rate(peak: float, progress: float) -> float:
    """Linear warm-up over the first 2 %, then a cosine to 0."""
    warm_up = min(1.0, (progress + 1e-3) / 0.02)
    return peak * warm_up * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _step(
    objective: Objective, optimizer: torch.optim.Optimizer, batch: Tensor, rate: float
) -> Tensor:
    """One step; the mean absolute relative error of the batch before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    errors = objective.errors(batch)
    zero = torch.zeros_like(errors.log_ratio)
    loss = torch.nn.functional.huber_loss(errors.log_ratio, zero, delta=_HUBER_DELTA) / _HUBER_DELTA
    if errors.log_slack is not None:
        loss = loss + _SLACK_WEIGHT * errors.log_slack.mean()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(objective.module.parameters(), 5.0)
    optimizer.step()
    return errors.log_ratio.detach().expm1().abs().mean()


@torch.no_grad()
def _mape_percent(objective: Objective, groups: Tensor) -> float:
    total, count = 0.0, 0
    for part in torch.split(groups, 4096):
        errors = torch.expm1(objective.errors(part).log_ratio).abs()
        total += float(errors.sum(dtype=torch.float64))
        count += errors.numel()
    return 100.0 * total / count
