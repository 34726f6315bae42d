"""What the measuring commands share: devices, provenance, and the session of one run."""

from __future__ import annotations

import os
from typing import Any

from shardwright_benchmark_worker import logs
from shardwright_benchmark_worker.cli.options import Watching, Work
from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.heartbeat import HeartbeatWriter
from shardwright_benchmark_worker.metrics import WorkerMetrics
from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.roofline import GpuProfile, get_profile
from shardwright_benchmark_worker.roofline import source as roofline
from shardwright_benchmark_worker.sampling import CommLimits, ComputeLimits
from shardwright_benchmark_worker.session import Session, Watcher
from shardwright_benchmark_worker.share import Share
from shardwright_benchmark_worker.software import software_versions

_ROOFLINE = "roofline:"
_MEASURED_PART_SIZE = 200
_MODELLED_PART_SIZE = 2000


def open_session(work: Work, watching: Watching) -> Session:
    """Log lines as the user wants them, and the session of this run.

    Raises:
        OptionError: When an option is out of range.
    """
    logs.configure(watching.log_format)
    if not 0 <= work.store_retry_s <= 86_400:
        raise OptionError(f"--store-retry-s must be in 0 .. 86400, got {work.store_retry_s:g}")
    watchers: list[Watcher] = [HeartbeatWriter()]
    # of the processes of a torchrun job, the first one records
    if watching.metrics_port is not None and os.environ.get("RANK", "0") == "0":
        metrics = WorkerMetrics()
        port = metrics.serve(watching.metrics_port)
        logger.info("metrics are served", extra={"port": port})
        watchers.append(metrics)
    return Session(overwrite=work.overwrite, store_retry_s=work.store_retry_s, watchers=watchers)


def parse_device(device: str, hardware: str | None) -> tuple[GpuProfile | None, str]:
    """The profile of a roofline (None for a real device) and the name of the hardware."""
    if device.startswith(_ROOFLINE):
        profile = get_profile(device.removeprefix(_ROOFLINE))
        return profile, hardware or profile.hardware
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device must be cpu, cuda or roofline:PROFILE, got {device!r}")
    if hardware is None:
        raise OptionError(
            f"--device {device} needs --hardware NAME, the profile that the numbers belong to"
        )
    return None, hardware


def samples_of(work: Work, hardware: str) -> dict[str, Any]:
    """Which samples are this worker's, as arguments of a `Recording`."""
    part_size = work.part_size
    if part_size is None:
        modelled = work.device.startswith(_ROOFLINE)
        part_size = _MODELLED_PART_SIZE if modelled else _MEASURED_PART_SIZE
    # under torchrun, the pods of an Indexed Job are hosts of one worker
    environ = {} if "RANK" in os.environ else os.environ
    return {
        "out_url": work.out,
        "hardware": hardware,
        "seed": work.seed,
        "start_index": work.start_index,
        "num_samples": work.samples,
        "part_size": part_size,
        "share": Share.of(work.worker_index, work.num_workers, environ),
    }


def modelled_by(profile: GpuProfile) -> dict[str, Any]:
    """Provenance of what a roofline says, as arguments of a `Recording`."""
    return {
        "source": "modelled",
        "fingerprint": roofline.fingerprint(profile),
        "software": software_versions(measured=False),
    }


def texts(limits: ComputeLimits | CommLimits, **more: object) -> dict[str, str]:
    """Options as text: they stand in the metadata, and their digest in the name of a part."""
    return {name: _text(value) for name, value in {**vars(limits), **more}.items()}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(item.value for item in value)
    return str(value)
