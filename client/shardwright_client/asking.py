"""Asking a server while a person watches; what is shown goes to standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console

from shardwright.domain import PlanRequest, PlanResult
from shardwright_client import render
from shardwright_client.client import ShardingPlanClient
from shardwright_client.errors import ProtocolError


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner, only where a person looks at it."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


def ask_for_plan(client: ShardingPlanClient, request: PlanRequest, *, watch: bool) -> PlanResult:
    """The answer to a request.

    Args:
        client: Of the server to ask.
        request: The question.
        watch: Whether each better plan is shown as soon as it is found.

    Raises:
        ShardwrightClientError: One of its children, see `shardwright_client.errors`.
    """
    problem = request.problem
    tables, devices = len(problem.tables), problem.cluster.num_devices
    title = f"Planning {tables} tables for {devices} devices ..."
    if watch:
        return _watched(client, request, title)
    with waiting(title):
        return client.get_sharding_plan(
            problem,
            options=request.options,
            request_id=request.request_id,
            cost_model_version=request.cost_model_version,
        )


def _watched(client: ShardingPlanClient, request: PlanRequest, title: str) -> PlanResult:
    """The last of a stream of plans, all of which are shown."""
    results = client.stream_sharding_plan(
        request.problem,
        options=request.options,
        request_id=request.request_id,
        cost_model_version=request.cost_model_version,
    )
    last: PlanResult | None = None
    console = Console(stderr=True, highlight=False, emoji=False)
    with render.improvements(console, title) as show:
        for last in results:
            show(last)
    if last is None:
        raise ProtocolError(f"{client.target} ended the stream without a plan; ask its log why")
    return last
