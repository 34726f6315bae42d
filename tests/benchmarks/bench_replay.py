"""Whether predicted costs come true: plans of five tasks, run on two cores of this machine.

python -m tests.benchmarks.bench_replay plan             # eight plans a task, as proto JSON
python -m tests.benchmarks.bench_replay run --task 0     # replays them; 0 .. 4, on a quiet machine
python -m tests.benchmarks.bench_replay report           # the results file
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from tests.benchmarks.replay_report import draw_scatter, read_outcomes, report_lines
from tests.benchmarks.replay_tasks import TASKS, draw_problem, make_plans

from shardwright import wire
from shardwright.domain import PlanRequest
from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel

ROOT = Path("build/benchmarks/replay")
RESULTS = Path(__file__).parent / "results"
HARDWARE = "amd-epyc-milan-1core"
NUM_DEVICES = 2

app = typer.Typer(add_completion=False)
Folder = Annotated[Path, typer.Option(help="Where plans and measurements lie.")]
Profile = Annotated[str, typer.Option(help="Profile whose cost models predict.")]


@app.command()
def plan(
    root: Folder = ROOT,
    hardware: Profile = HARDWARE,
    bundles: Annotated[str, typer.Option(help="Registry of its bundle.")] = DEFAULT_BUNDLES_URL,
) -> None:
    """Asks for eight plans a task and writes them with their request."""
    model = OnnxCostModel.from_bundle(Registry(bundles).load(hardware))
    for task in TASKS:
        problem = draw_problem(task, hardware, NUM_DEVICES)
        folder = root / task.name
        folder.mkdir(parents=True, exist_ok=True)
        request = wire.plan_request_to_proto(PlanRequest(problem))
        (folder / "request.json").write_text(json_format.MessageToJson(request))
        for name, result in make_plans(problem, model).items():
            response = wire.plan_result_to_proto(result)
            (folder / f"{name}.json").write_text(json_format.MessageToJson(response))
            typer.echo(f"{task.name} {name}: {result.cost_ms:.2f} ms")


@app.command()
def run(
    task: Annotated[int, typer.Option(help="0 .. 4.")],
    root: Folder = ROOT,
    rounds: Annotated[int, typer.Option(help="Of all plans of the task in turn.")] = 4,
    iterations: Annotated[int, typer.Option(help="Of each plan in each round.")] = 20,
) -> None:
    """Replays the plans of one task, one rank on each core."""
    folder = root / TASKS[task].name
    plans = sorted(p for p in folder.glob("*.json") if p.stem not in ("request", "measured"))
    # a rank and the threads of its collectives share one core
    pinned = 'exec taskset -c $LOCAL_RANK "$0" "$@"'
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(NUM_DEVICES), "--no-python"),
            *("bash", "-c", pinned, sys.executable, "-m", "shardwright_benchmark_worker", "replay"),
            *(*map(str, plans), "--device", "cpu", "--json"),
            *("--rounds", str(rounds), "--iterations", str(iterations)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    (folder / "measured.json").write_bytes(done.stdout)


@app.command()
def report(
    root: Folder = ROOT,
    out: Annotated[Path, typer.Option(help="Folder of the results file.")] = RESULTS,
) -> None:
    """Writes the results file and the scatter plot beside it."""
    outcomes = read_outcomes(root)
    name = f"replay_cpu_{date.today().isoformat()}"
    draw_scatter(outcomes, out / f"{name}.png")
    lines = report_lines(outcomes, f"{name}.png")
    (out / f"{name}.md").write_text("\n".join(lines))
    typer.echo(out / f"{name}.md")


if __name__ == "__main__":
    app()
