"""Entry point of the `shardwright` command; the commands need the extra `cli`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line, or says in one line how to install what it needs."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(
            f"The shardwright command needs the package {error.name!r}: "
            f"pip install 'shardwright-client[cli]'"
        )
    # gRPC reads it once, when imported; its log lines would stand among our one-paragraph errors
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from shardwright_client.commands import run

    run()
