"""Draws `server/docs/search.png`: what devices do under two plans of the DLRM-DCNv2 example.

python tests/benchmarks/search_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from google.protobuf import json_format
from matplotlib.axes import Axes

from shardwright import wire
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.search.beam import search_beam
from shardwright_server.search.budget import Budget
from shardwright_server.search.cost import PlanCosts, PlanEvaluator
from shardwright_server.search.local_search import search_locally

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Searches with both algorithms and draws both plans."""
    message = service_pb2.GetShardingPlanRequest()
    example = ROOT / "client" / "examples" / "mlperf_dlrm_dcnv2.json"
    json_format.ParseDict(json.loads(example.read_text()), message)
    request = wire.plan_request_from_proto(message)
    registry = Registry(DEFAULT_BUNDLES_URL)
    bundle = registry.load(request.problem.cluster.hardware, None)
    evaluator = PlanEvaluator(request.problem, OnnxCostModel.from_bundle(bundle))
    beam = search_beam(evaluator, request.options, Budget()).plan
    ours = search_locally(evaluator, request.options, Budget()).plan
    costs = evaluator.layout_costs([evaluator.layout(plan) for plan in (beam, ours)])

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
    for plan, (axis, name) in enumerate(zip(axes, ("NEUROSHARD", "LOCAL_SEARCH"), strict=True)):
        _draw(axis, costs, plan)
        axis.set_title(f"{name}: {costs.cost_ms[plan]:.2f} ms", fontsize=11)
    axes[0].set_ylabel("ms per iteration, predicted")
    axes[1].legend(fontsize=9, ncols=2, loc="upper left")
    figure.tight_layout()
    figure.savefig(ROOT / "server" / "docs" / "search.png", dpi=110)


def _draw(axis: Axes, costs: PlanCosts, plan: int) -> None:
    """What each device does in an iteration, from the bottom up in the order of time."""
    devices = np.arange(costs.compute_ms.shape[1])
    bottom = np.zeros(len(devices))
    for part_ms, name, color in (
        (costs.compute_ms, "compute", "#4878a8"),
        (costs.backward_comm_ms, "backward transfer", "#e1a23b"),
        (costs.wait_ms, "wait for the slowest", "#dddddd"),
        (costs.forward_comm_ms, "forward transfer", "#c8553d"),
    ):
        axis.bar(devices, part_ms[plan], bottom=bottom, label=name, color=color)
        bottom += part_ms[plan]
    axis.set_xlabel("device")


if __name__ == "__main__":
    main()
