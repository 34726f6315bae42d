"""What replayed plans say about predictions and about the chosen plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  the backend is chosen first
from tests.benchmarks.machine import header, table  # noqa: E402
from tests.benchmarks.replay_tasks import BASELINES, OURS, TASKS  # noqa: E402

from shardwright.domain import CostModelId, CostModelSource  # noqa: E402
from shardwright_benchmark_worker.replay.measured import kendall_tau  # noqa: E402

MUST_TAU = 0.85


@dataclass(frozen=True)
class Outcome:
    """One plan of one task.

    Attributes:
        task: Name of the task.
        plan: Name of who made it.
        predicted_ms: Cost by the model.
        measured_ms: Cost on the ranks.
        noise_percent: Half the range of the rounds' costs.
        round_ms: Measured cost by round; plans of a task take turns, so rounds are pairs.
        model: Who predicted.
        iterations: Behind the measured cost.
    """

    task: str
    plan: str
    predicted_ms: float
    measured_ms: float
    noise_percent: float
    round_ms: tuple[float, ...]
    model: CostModelId
    iterations: int


def read_outcomes(root: Path) -> list[Outcome]:
    """What has been replayed under a folder, by task.

    Raises:
        FileNotFoundError: When a task has not been replayed.
    """
    outcomes = []
    for task in TASKS:
        answer = json.loads((root / task.name / "measured.json").read_text())
        for plan in answer["plans"]:
            model = plan["cost_model"]
            outcomes.append(
                Outcome(
                    task=task.name,
                    plan=plan["name"],
                    predicted_ms=plan["predicted_cost_ms"],
                    measured_ms=plan["measured_cost_ms"],
                    noise_percent=plan["noise_percent"],
                    round_ms=tuple(plan["round_cost_ms"]),
                    model=CostModelId(**{**model, "source": CostModelSource(model["source"])}),
                    iterations=plan["iterations"],
                )
            )
    return outcomes


@dataclass(frozen=True)
class Gain:
    """The chosen plan of a task against the best baseline, the one that was measured cheapest.

    Attributes:
        best: Name of that baseline.
        percent: Measured cost of the baseline above that of the chosen plan.
        noise_percent: Half the range of the same by round.
    """

    best: str
    percent: float
    noise_percent: float

    @property
    def holds(self) -> bool:
        """Whether the chosen plan is not worse by more than the noise."""
        return self.percent >= -self.noise_percent


def gain_of(outcomes: Sequence[Outcome]) -> Gain:
    """Of one task."""
    by_name = {outcome.plan: outcome for outcome in outcomes}
    ours = by_name[OURS]
    best = min((by_name[name] for name in BASELINES), key=lambda o: o.measured_ms)
    by_round = [100 * (b / a - 1) for a, b in zip(ours.round_ms, best.round_ms, strict=True)]
    noise = (max(by_round) - min(by_round)) / 2
    return Gain(best.plan, 100 * (best.measured_ms / ours.measured_ms - 1), noise)


def _tau(outcomes: Sequence[Outcome]) -> float:
    return kendall_tau([o.predicted_ms for o in outcomes], [o.measured_ms for o in outcomes])


def report_lines(outcomes: Sequence[Outcome], picture: str) -> list[str]:
    """The results file."""
    by_task = {task.name: [o for o in outcomes if o.task == task.name] for task in TASKS}
    gains = {task: gain_of(found) for task, found in by_task.items()}
    tau = _tau(outcomes)
    bias = [o.predicted_ms / o.measured_ms - 1 for o in outcomes]
    command = "python -m tests.benchmarks.bench_replay plan; ... run --task 0 (to 4); ... report"
    verdict = {
        f"Kendall's tau over {len(outcomes)} plans >= {MUST_TAU}": (f"{tau:.3f}", tau >= MUST_TAU),
        "chosen plan not worse than the best baseline by more than the noise, on every task": (
            f"{sum(g.holds for g in gains.values())} of {len(gains)}",
            all(g.holds for g in gains.values()),
        ),
    }
    return [
        *header("Plans replayed: predicted against measured", command, outcomes[0].model),
        f"Two ranks, one core each, gloo on loopback. {outcomes[0].iterations} iterations of each "
        f"plan, in {len(outcomes[0].round_ms)} rounds in which the plans of a task take turns; "
        "noise is half the range of the rounds' costs. Cost: DESIGN, compute + backward "
        "communication, waiting, forward communication, of the slowest rank.",
        "",
        *table(
            ["must", "measured", "holds"],
            [[must, value, "yes" if holds else "NO"] for must, (value, holds) in verdict.items()],
        ),
        f"Mean gain of the chosen plan over the best baseline of a task, which is not known before "
        f"measuring: {mean(g.percent for g in gains.values()):.1f} %; over the median of the five "
        f"baselines: {mean(_over_median(found) for found in by_task.values()):.1f} %. "
        f"Predicted is off by {100 * mean(bias):+.1f} % on average, "
        f"{100 * mean(map(abs, bias)):.1f} % in magnitude.",
        "",
        *table(
            ["task", "tau of its plans", "best baseline", "gain %", "noise of the gain %", "holds"],
            [
                [
                    task,
                    f"{_tau(by_task[task]):.2f}",
                    gain.best,
                    f"{gain.percent:+.1f}",
                    f"{gain.noise_percent:.1f}",
                    "yes" if gain.holds else "NO",
                ]
                for task, gain in gains.items()
            ],
        ),
        f"![predicted against measured]({picture})",
        "",
        *table(
            ["task", "plan", "predicted ms", "measured ms", "off by %", "noise %"],
            [
                [
                    o.task,
                    o.plan,
                    f"{o.predicted_ms:.2f}",
                    f"{o.measured_ms:.2f}",
                    f"{100 * (o.predicted_ms / o.measured_ms - 1):+.1f}",
                    f"{o.noise_percent:.1f}",
                ]
                for found in by_task.values()
                for o in sorted(found, key=lambda o: o.measured_ms)
            ],
        ),
    ]


def _over_median(outcomes: Sequence[Outcome]) -> float:
    by_name = {outcome.plan: outcome.measured_ms for outcome in outcomes}
    return 100 * (median(by_name[name] for name in BASELINES) / by_name[OURS] - 1)


def draw_scatter(outcomes: Sequence[Outcome], path: Path) -> None:
    """Predicted against measured cost of every plan, one colour a task, ours as stars."""
    figure, axes = pyplot.subplots(figsize=(6.4, 6.0))
    for color, task in zip(pyplot.get_cmap("tab10").colors, TASKS, strict=False):
        for marker, chosen in (("*", True), ("o", False)):
            found = [o for o in outcomes if o.task == task.name and (o.plan == OURS) == chosen]
            measured = [o.measured_ms for o in found]
            noise = [o.noise_percent / 100 * o.measured_ms for o in found]
            axes.errorbar(
                measured,
                [o.predicted_ms for o in found],
                xerr=noise,
                fmt=marker,
                color=color,
                markersize=12 if chosen else 5,
                linewidth=0.8,
                label=None if chosen else task.name,
            )
    ends = [f(v for o in outcomes for v in (o.measured_ms, o.predicted_ms)) for f in (min, max)]
    axes.plot(ends, ends, color="grey", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured ms per iteration (bars: range of the rounds)")
    axes.set_ylabel("predicted ms per iteration")
    axes.set_title(f"{len(outcomes)} plans, tau {_tau(outcomes):.3f} (star: the chosen plan)")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
