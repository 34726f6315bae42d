"""What the measuring commands share: devices, provenance, and parts that are still missing."""

from __future__ import annotations

from typing import Any

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.progress import logger, progress
from shardwright_benchmark_worker.recorder import Measure, Recording, record_part
from shardwright_benchmark_worker.roofline import GpuProfile, get_profile
from shardwright_benchmark_worker.roofline import source as roofline
from shardwright_benchmark_worker.sampling import CommLimits, ComputeLimits
from shardwright_benchmark_worker.software import software_versions

_ROOFLINE = "roofline:"


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


def missing(recording: Recording, overwrite: bool) -> list[range]:
    """Indices of the parts to measure: those that are not there, or all."""
    return recording.parts() if overwrite else recording.missing_parts()


def record(recording: Recording, measure: Measure, overwrite: bool) -> None:
    """Measures and writes the parts that are missing."""
    record_parts(recording, missing(recording, overwrite), measure)


def record_parts(recording: Recording, todo: list[range], measure: Measure) -> None:
    """Measures and writes parts, with a progress bar on a terminal."""
    skipped = len(recording.parts()) - len(todo)
    if skipped:
        logger.info("%d parts are already there; --overwrite measures them again", skipped)
    with progress(recording.kind.value, sum(map(len, todo))) as advance:
        for i, indices in enumerate(todo, start=1):
            url = record_part(recording, indices, measure, advance)
            logger.info("part %d of %d: %d samples in %s", i, len(todo), len(indices), url)
