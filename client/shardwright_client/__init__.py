"""Asks a Shardwright server how to split and place embedding tables.

Importing this package needs grpcio and protobuf only; `to_torchrec` and `from_torchrec` import
torch and torchrec when they are called, the command line imports typer and rich.
"""

from shardwright_client.client import DEFAULT_TIMEOUT_S, ShardingPlanClient
from shardwright_client.errors import (
    AccessDeniedError,
    CostModelNotFoundError,
    FileError,
    InfeasibleError,
    InvalidRequestError,
    MissingDependencyError,
    PlanMismatchError,
    PlanningTimeoutError,
    ProtocolError,
    RequestCancelledError,
    ServerBusyError,
    ServerError,
    ServerInternalError,
    ServerUnavailableError,
    ShardwrightClientError,
)
from shardwright_client.torchrec import from_torchrec, to_torchrec

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "AccessDeniedError",
    "CostModelNotFoundError",
    "FileError",
    "InfeasibleError",
    "InvalidRequestError",
    "MissingDependencyError",
    "PlanMismatchError",
    "PlanningTimeoutError",
    "ProtocolError",
    "RequestCancelledError",
    "ServerBusyError",
    "ServerError",
    "ServerInternalError",
    "ServerUnavailableError",
    "ShardingPlanClient",
    "ShardwrightClientError",
    "__version__",
    "from_torchrec",
    "to_torchrec",
]
