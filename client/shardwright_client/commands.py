"""The commands `shardwright plan | evaluate | models`.

Exit codes:
    0  done
    1  the command line broke off (output closed, interrupted)
    2  bad input: arguments, files, a request that the server rejects, an unknown cost model
    3  no plan fits into memory
    4  the server cannot be reached, is busy, ran out of time or failed
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from shardwright import wire
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_client import files, render
from shardwright_client.asking import ask_for_plan, waiting
from shardwright_client.client import DEFAULT_TIMEOUT_S, ShardingPlanClient
from shardwright_client.errors import (
    InfeasibleError,
    InvalidRequestError,
    ServerError,
    ShardwrightClientError,
)

EXIT_BROKEN_OFF = 1
EXIT_BAD_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_SERVER = 4

SERVER_VARIABLE = "SHARDWRIGHT_SERVER"
DEFAULT_SERVER = "localhost:50051"

app = typer.Typer(
    help="Plans how the embedding tables of a recommendation model are split over GPUs.",
    epilog="Exit codes: 2 bad input, 3 no plan fits into memory, 4 the server cannot be reached "
    "or failed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _not_empty(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("must be host:port of a Shardwright server, got nothing")
    return text


def _positive(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter(f"must be a number of seconds above 0, got {seconds:g}")
    return seconds


RequestFile = Annotated[
    str,
    typer.Argument(
        metavar="REQUEST.json",
        help="GetShardingPlanRequest in proto JSON; - reads standard input.",
    ),
]
PlanFile = Annotated[
    str,
    typer.Argument(
        metavar="PLAN.json",
        help="ShardingPlan or GetShardingPlanResponse in proto JSON; - reads standard input.",
    ),
]
Server = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        envvar=SERVER_VARIABLE,
        callback=_not_empty,
        help="Shardwright server to ask.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Also write the answer, as proto JSON."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as proto JSON.")]
Timeout = Annotated[
    float,
    typer.Option(metavar="SECONDS", callback=_positive, help="Give up after this many seconds."),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Show each better plan, on standard error, as it is found.")
]
Full = Annotated[bool, typer.Option("--full", help="List every device and table, however many.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shardwright {version('shardwright-client')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def plan(
    request_file: RequestFile,
    server: Server = DEFAULT_SERVER,
    output: Output = None,
    as_json: AsJson = False,
    full: Full = False,
    watch: Watch = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Ask for the plan with the lowest predicted cost."""
    _check_output(output)
    request = files.read_request(request_file)
    problem = request.problem
    with ShardingPlanClient(server, timeout_s=timeout) as client:
        result = ask_for_plan(client, request, watch=watch)
    text = files.to_json(wire.plan_result_to_proto(result))
    if not _deliver(text, output, as_json):
        with _page(output) as console:
            render.print_plan(console, problem, result, full=full)


@app.command()
def evaluate(
    request_file: RequestFile,
    plan_file: PlanFile,
    server: Server = DEFAULT_SERVER,
    output: Output = None,
    as_json: AsJson = False,
    full: Full = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Predict what a plan costs on the problem of a request, whoever made the plan."""
    _check_output(output)
    if request_file == plan_file == files.STDIN:
        raise typer.BadParameter("only one of the two files can be standard input")
    request = files.read_request(request_file)
    sharding_plan = files.read_plan(plan_file)
    with waiting("Evaluating ..."), ShardingPlanClient(server, timeout_s=timeout) as client:
        result = client.evaluate_sharding_plan(
            request.problem,
            sharding_plan,
            request_id=request.request_id,
            cost_model_version=request.cost_model_version,
        )
    text = files.to_json(wire.evaluation_result_to_proto(result))
    if not _deliver(text, output, as_json):
        with _page(output) as console:
            render.print_evaluation(console, request.problem, sharding_plan, result, full=full)


@app.command()
def models(
    hardware: Annotated[str, typer.Option(metavar="NAME", help="Only this hardware profile.")] = "",
    server: Server = DEFAULT_SERVER,
    output: Output = None,
    as_json: AsJson = False,
    timeout: Timeout = 30.0,
) -> None:
    """List the cost models that a server answers with, and how accurate they are."""
    _check_output(output)
    with waiting("Asking ..."), ShardingPlanClient(server, timeout_s=timeout) as client:
        found = client.list_cost_models(hardware)
    message = service_pb2.ListCostModelsResponse(cost_models=map(wire.description_to_proto, found))
    if not _deliver(files.to_json(message), output, as_json):
        with _page(output) as console:
            render.print_models(console, found)


@contextlib.contextmanager
def _page(output: str | None) -> Iterator[Console]:
    """The console for an answer; says at the end where the answer was written, too."""
    console = Console(highlight=False, emoji=False)
    if console.is_terminal:
        yield console
    else:
        # rich pads lines to the full width, which a file or a pipe does not want
        with console.capture() as capture:
            yield console
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())
    if output is not None:
        sys.stdout.write(f"\nWritten to {output}\n")
    sys.stdout.flush()


def _check_output(output: str | None) -> None:
    if output is not None and output != files.STDIN:
        files.check_writable(output)


def _deliver(text: str, output: str | None, as_json: bool) -> bool:
    """Writes and prints the JSON as wished; whether it went to standard output."""
    if output is not None and output != files.STDIN:
        files.write_text(output, text)
    if as_json or output == files.STDIN:
        sys.stdout.write(text)
        sys.stdout.flush()
        return True
    return False


def run() -> None:
    """Runs the command line; every error is one paragraph on standard error."""
    for stream in (sys.stdout, sys.stderr):
        # a table name that the terminal cannot show must not end the command
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        app(prog_name="shardwright")
    except OSError as error:
        _give_up_output(error)
    except ShardwrightClientError as error:
        print(f"shardwright: {_message(error)}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _give_up_output(error: OSError) -> NoReturn:
    """Ends the command when nobody takes its output: a full disk, or a reader that went away."""
    if not isinstance(error, BrokenPipeError):
        print(f"shardwright: the output cannot be written: {error.strerror}", file=sys.stderr)
    # or Python would try again to write the rest when it exits, and complain
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(EXIT_BROKEN_OFF)


def _message(error: ShardwrightClientError) -> str:
    if isinstance(error, InvalidRequestError) and len(error.violations) > 1:
        listed = "".join(f"\n  {violation}" for violation in error.violations)
        return f"the server rejects the request:{listed}"
    return str(error)


def _exit_code(error: ShardwrightClientError) -> int:
    if isinstance(error, InfeasibleError):
        return EXIT_INFEASIBLE
    return EXIT_SERVER if isinstance(error, ServerError) else EXIT_BAD_INPUT
