"""The training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

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
    epochs: int = 100
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


def fit(
    objective: Objective,
    split: Split,
    settings: FitSettings,
    on_epoch: Callable[[float, float], None] = lambda progress, validation_mape_percent: None,
) -> FitResult:
    """Fits a model and leaves it with the weights that were best on the validation split.

    The same data, settings and thread count give the same weights.

    Args:
        objective: Model and data.
        split: Which groups to train and to validate on.
        settings: How.
        on_epoch: Called after each pass with progress from 0 to 1 and the validation error.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    training, validation = torch.from_numpy(split.training), torch.from_numpy(split.validation)
    batch_size = max(8, min(settings.batch_size, len(training) // 100))
    steps_per_epoch = math.ceil(len(training) / batch_size)
    epochs = max(settings.epochs, math.ceil(settings.min_steps / steps_per_epoch))
    optimizer = torch.optim.AdamW(
        objective.module.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,  # a tenth of the time: the models are small
    )
    started = time.monotonic()
    training_errors: list[float] = []
    history: list[float] = []
    best_weights = copy.deepcopy(objective.module.state_dict())
    for epoch in range(epochs):
        order = training[torch.randperm(len(training), generator=generator)]
        errors = []
        for step, batch in enumerate(torch.split(order, batch_size)):
            elapsed = (time.monotonic() - started) / settings.max_seconds
            progress = max((epoch + step / steps_per_epoch) / epochs, elapsed)
            rate = _rate(settings.learning_rate, progress)
            errors.append(_step(objective, optimizer, batch, rate))
        training_errors.append(100.0 * float(torch.stack(errors).mean()))
        history.append(_mape_percent(objective, validation))
        best = min(range(len(history)), key=history.__getitem__)
        if best == epoch:
            best_weights = copy.deepcopy(objective.module.state_dict())
        progress = max((epoch + 1) / epochs, (time.monotonic() - started) / settings.max_seconds)
        stalled = epoch - best > max(10.0, settings.patience * epochs)
        ended = stalled or progress >= 1.0
        on_epoch(1.0 if ended else progress, history[-1])
        if ended:
            break
    objective.module.load_state_dict(best_weights)
    return FitResult(len(history), tuple(training_errors), tuple(history), best)


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
    errors = [
        torch.expm1(objective.errors(part).log_ratio).abs().ravel()
        for part in torch.split(groups, 4096)
    ]
    return 100.0 * float(torch.cat(errors).mean())
