"""Log lines: JSON or for people, one line per event, in the format of `shardwright-server`."""

from __future__ import annotations

import logging
import sys
from enum import Enum

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


class LogFormat(Enum):
    """How a log line is written."""

    JSON = "json"
    CONSOLE = "console"


def configure(log_format: LogFormat | None = None) -> None:
    """Sends log lines to stderr; on a terminal only warnings, the bar shows the rest.

    Args:
        log_format: None: for people on a terminal, JSON elsewhere.
    """
    terminal = sys.stderr.isatty()
    if log_format is None:
        log_format = LogFormat.CONSOLE if terminal else LogFormat.JSON
    before: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_render(log_format),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    ours = logging.getLogger("shardwright_benchmark_worker")
    ours.setLevel(logging.WARNING if terminal else logging.INFO)


def _render(log_format: LogFormat) -> list[Processor]:
    if log_format is LogFormat.JSON:
        return [
            structlog.processors.format_exc_info,
            _event_first,
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _event_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Puts what happened before its circumstances: people and sed read from the left."""
    return {"event": event.pop("event"), **event}
