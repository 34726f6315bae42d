"""The command `shardwright-server`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from shardwright_server import logs
from shardwright_server.errors import StartupError
from shardwright_server.model_store import ModelLoader
from shardwright_server.refresh import Refresher
from shardwright_server.server import Server
from shardwright_server.settings import Settings, read_settings
from shardwright_server.warm_up import warm_up

EXIT_BAD_START = 2
"""Exit status when the settings are bad, a port is taken, or no bundle can be read."""


def main() -> None:
    """Serves until SIGTERM or SIGINT, drains, and exits with status 0."""
    try:
        settings = read_settings(sys.argv[1:])
        logs.configure(settings.log_format)
        asyncio.run(_serve(settings))
    except StartupError as error:
        print(f"shardwright-server: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_START)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    loader = ModelLoader(settings.bundles)
    refresher = Refresher(loader, settings.refresh_seconds)
    loop.add_signal_handler(signal.SIGHUP, refresher.look_now)
    models, faults = await asyncio.to_thread(loader.load)
    await asyncio.to_thread(warm_up, models.resolve(models.describe()[0].cost_model.hardware))
    server = Server(settings, models, faults)
    await server.start()
    refreshing = asyncio.create_task(refresher.run(server.serve, server.refresh_failed))
    await stop.wait()
    is_loading = refresher.is_loading
    refreshing.cancel()
    if not await server.stop() or is_loading:
        # the interpreter would wait for what nobody waits for any more
        sys.stderr.flush()
        os._exit(0)
