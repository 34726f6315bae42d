"""Settings of the server: flags on the command line, or environment variables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError

from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL
from shardwright_server.errors import StartupError

ENV_PREFIX = "SHARDWRIGHT_"
"""Every setting is also an environment variable: `--max-queued` is `SHARDWRIGHT_MAX_QUEUED`.
A flag wins over its variable."""


class Settings(BaseSettings):
    """Serves sharding plans over gRPC; the README of the server explains every setting."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_prog_name="shardwright-server",
        cli_kebab_case=True,
        cli_exit_on_error=False,
        frozen=True,
    )

    bundles: str = Field(
        DEFAULT_BUNDLES_URL,
        min_length=1,
        description="Registry of cost-model bundles: a directory or an fsspec URL such as "
        "s3://bucket/bundles. Default: the bundles that ship with shardwright-costmodel",
    )
    refresh_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="The registry is looked at again after so many seconds, for new bundles and "
        "another promoted one; 0: only on SIGHUP",
    )
    host: str = Field("0.0.0.0", min_length=1, description="Address to listen on, for both ports")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        9090, ge=0, le=65535, description="Port of the Prometheus endpoint; 0 picks a free one"
    )
    planner_threads: int = Field(2, ge=1, le=256, description="Searches that run at once")
    max_queued: int = Field(
        32,
        ge=0,
        le=100_000,
        description="Searches that may wait for a planner; more are refused (RESOURCE_EXHAUSTED)",
    )
    max_search_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="A search that runs longer returns the best plan it has, also when its RPC "
        "has no deadline",
    )
    max_tables: int = Field(100_000, ge=1, le=100_000, description="Tables a request may name")
    max_devices: int = Field(4_096, ge=1, le=65_536, description="Devices a request may name")
    max_message_mib: int = Field(
        64, ge=1, le=1024, description="Largest request, MiB; 100,000 tables need about 25"
    )
    grace_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="After SIGTERM or SIGINT, RPCs in flight have this long to finish",
    )
    log_format: Literal["json", "console"] = Field("json", description="One line per event")


def read_settings(arguments: list[str]) -> Settings:
    """Reads settings from command-line arguments and the environment.

    Args:
        arguments: The command line without the program's name; `--help` prints and exits.

    Raises:
        StartupError: On an unknown flag or a bad value, naming all of them in one line.
    """
    try:
        return CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        faults = "; ".join(
            f"{_flag(fault['loc'])} (or {_variable(fault['loc'])}): {fault['msg']}, "
            f"got {fault['input']!r:.80}"
            for fault in error.errors()
        )
        raise StartupError(faults) from error
    except SettingsError as error:
        raise StartupError(f"{error}; --help lists the flags") from error


def _flag(location: tuple[int | str, ...]) -> str:
    return "--" + str(location[0]).replace("_", "-")


def _variable(location: tuple[int | str, ...]) -> str:
    return ENV_PREFIX + str(location[0]).upper()
