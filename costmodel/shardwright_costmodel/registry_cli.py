"""Entry point of the `shardwright-registry` command; the commands need the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says in one line how to install what it needs."""
    try:
        import onnxruntime  # noqa: F401
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(
            f"The shardwright-registry command needs the package {error.name!r}: "
            "pip install 'shardwright-costmodel[cpu,cli]'"
        )
    from shardwright_costmodel.registry_commands import run

    run()
