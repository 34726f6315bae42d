"""Predicted against measured, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from shardwright.domain import DeviceCost
from shardwright_benchmark_worker.replay.measured import (
    MeasuredDevice,
    MeasuredPlan,
    kendall_tau,
)

_PARTS = ("compute", "backward_comm", "forward_comm", "wait", "total")


def as_json(plans: Sequence[MeasuredPlan], warnings: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured, with what was predicted of it; NaN becomes None."""
    return {
        "plans": [_plan_json(plan) for plan in plans],
        "kendall_tau": _tau(plans),
        "warnings": list(warnings),
    }


def _plan_json(plan: MeasuredPlan) -> dict[str, Any]:
    result = plan.planned.result
    return {
        "name": plan.planned.name,
        "fingerprint": result.plan.fingerprint,
        "cost_model": {
            "name": result.cost_model.name,
            "version": result.cost_model.version,
            "hardware": result.cost_model.hardware,
            "source": result.cost_model.source.value,
        },
        "predicted_cost_ms": result.cost_ms,
        "measured_cost_ms": plan.cost_ms,
        "slowest_device": plan.slowest.device,
        "noise_percent": plan.noise_percent if math.isfinite(plan.noise_percent) else None,
        "round_cost_ms": list(plan.round_cost_ms),
        "iterations": plan.iterations,
        "devices": [
            {"device": measured.device, "predicted": _parts(cost), "measured": _parts(measured)}
            for cost, measured in zip(result.devices, plan.devices, strict=True)
        ],
    }


def _parts(cost: DeviceCost | MeasuredDevice) -> dict[str, float]:
    return {f"{part}_ms": getattr(cost, f"{part}_ms") for part in _PARTS}


def _tau(plans: Sequence[MeasuredPlan]) -> float | None:
    if len(plans) < 2:
        return None
    tau = kendall_tau([p.planned.result.cost_ms for p in plans], [p.cost_ms for p in plans])
    return tau if math.isfinite(tau) else None


def print_plans(console: Console, plans: Sequence[MeasuredPlan]) -> None:
    """A table for each plan, and one that compares them where there are several."""
    for plan in plans:
        console.print(_device_table(plan))
        console.print(_verdict(plan), soft_wrap=True)
    if len(plans) > 1:
        console.print(_comparison(plans))
        tau = _tau(plans)
        shown = "not defined, all costs are equal" if tau is None else f"{tau:.3f}"
        console.print(f"Kendall's tau of predicted against measured, {len(plans)} plans: {shown}")


def _device_table(plan: MeasuredPlan) -> Table:
    model = plan.planned.result.cost_model
    table = Table(
        title=f"{plan.planned.name}: ms per iteration, predicted by {model.hardware} "
        f"{model.version} ({model.source.value.upper()})"
    )
    table.add_column("device", justify="right")
    table.add_column("")
    for part in _PARTS:
        table.add_column(part.replace("_", " "), justify="right")
    for cost, measured in zip(plan.planned.result.devices, plan.devices, strict=True):
        for device, side, of in ((str(cost.device), "predicted", cost), ("", "measured", measured)):
            table.add_row(device, side, *(f"{getattr(of, f'{part}_ms'):.2f}" for part in _PARTS))
    return table


def _verdict(plan: MeasuredPlan) -> str:
    predicted = plan.planned.result.cost_ms
    error = 100.0 * (predicted / plan.cost_ms - 1.0)
    return (
        f"slowest device, with waiting: predicted {predicted:.2f} ms, measured "
        f"{plan.cost_ms:.2f} ms (device {plan.slowest.device}): off by {error:+.1f} %, "
        f"noise {plan.noise_percent:.1f} % "
        f"({plan.iterations} iterations in {len(plan.round_cost_ms)} rounds)"
    )


def _comparison(plans: Sequence[MeasuredPlan]) -> Table:
    table = Table(title="Plans by measured cost")
    table.add_column("plan")
    for column in ("predicted ms", "measured ms", "noise %", "predicted off by %"):
        table.add_column(column, justify="right")
    for plan in sorted(plans, key=lambda p: p.cost_ms):
        predicted = plan.planned.result.cost_ms
        table.add_row(
            plan.planned.name,
            f"{predicted:.2f}",
            f"{plan.cost_ms:.2f}",
            f"{plan.noise_percent:.1f}",
            f"{100.0 * (predicted / plan.cost_ms - 1.0):+.1f}",
        )
    return table
