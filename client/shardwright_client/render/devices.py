"""What each device does: a bar of its time and a bar of its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from shardwright.domain import DeviceCost, ShardingPlan, ShardingProblem
from shardwright_client.render import bars
from shardwright_client.render.layout import (
    GIB,
    bar_table,
    gibibytes,
    milliseconds,
    picked,
    print_heading,
    print_hidden,
    print_indented,
)

MAX_DEVICES_SHOWN = 32


def print_times(console: Console, devices: Sequence[DeviceCost], full: bool) -> None:
    """Prints what each device does in an iteration; of very many, those that wait least."""
    print_heading(console, "Time of each device, ms per iteration")
    table = bar_table("dev", "compute", "fwd comm", "bwd comm", "wait", "sum")
    scale_ms = max((d.total_ms + d.wait_ms for d in devices), default=0.0)
    shown, hidden = picked(devices, MAX_DEVICES_SHOWN, full, key=lambda d: d.wait_ms)
    slowest = min(devices, key=lambda d: (d.wait_ms, d.device), default=None)
    for d in shown:
        parts = (
            (d.compute_ms, bars.COMPUTE),
            (d.forward_comm_ms, bars.FORWARD_COMM),
            (d.backward_comm_ms, bars.BACKWARD_COMM),
            (d.wait_ms, bars.WAIT),
        )
        table.add_row(
            str(d.device),
            bars.StackedBar(parts, scale_ms),
            *(milliseconds(ms, scale_ms) for ms, _ in parts),
            milliseconds(d.total_ms + d.wait_ms, scale_ms),
            style="bold" if d is slowest and len(devices) > 1 else None,
        )
    print_indented(console, table)
    print_hidden(console, hidden, "devices that wait longer")
    print_indented(
        console,
        bars.legend(
            [
                (bars.COMPUTE, "compute"),
                (bars.FORWARD_COMM, "forward comm"),
                (bars.BACKWARD_COMM, "backward comm"),
                (bars.WAIT, "wait for the slowest"),
            ],
            console,
        ),
    )


def print_memory(
    console: Console,
    problem: ShardingProblem,
    plan: ShardingPlan,
    devices: Sequence[DeviceCost],
    full: bool,
) -> None:
    """Prints how full each device is; of very many, the fullest."""
    cluster = problem.cluster
    reserved = (
        f" (besides {cluster.reserved_memory_bytes / GIB:,.1f} GiB reserved on each device)"
        if cluster.reserved_memory_bytes
        else ""
    )
    print_heading(console, f"Memory for shards, GiB{reserved}")
    table = bar_table("dev", "used", "limit", "%", "shards")
    num_shards = Counter(shard.device for shard in plan.shards)

    def free_bytes(d: DeviceCost) -> int:
        return cluster.shard_memory_bytes(d.device) - d.memory_bytes

    shown, hidden = picked(devices, MAX_DEVICES_SHOWN, full, key=free_bytes)
    for d in shown:
        limit = cluster.shard_memory_bytes(d.device)
        parts = ((d.memory_bytes, bars.MEMORY), (max(0, free_bytes(d)), bars.FREE))
        table.add_row(
            str(d.device),
            bars.StackedBar(parts, max(limit, d.memory_bytes)),
            gibibytes(d.memory_bytes),
            gibibytes(limit),
            f"{d.memory_bytes / limit * 100:.0f}" if limit else "-",
            str(num_shards[d.device]),
        )
    print_indented(console, table)
    print_hidden(console, hidden, "devices with more room")
