"""What may be drawn: everything a search may ask by default, less on real hardware."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from shardwright.domain import COLUMN_MULTIPLE, Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import OptionError

SMALLEST_BATCH_SIZE = 512
WIDEST_DIM = 1024
HELD_OUT_WORLD_SIZES = (6, 12, 24, 48, 96)


@dataclass(frozen=True)
class ComputeLimits:
    """Bounds on the fused operators that are drawn.

    Attributes:
        max_shards: Most tables or pieces in one operator.
        min_batch_size: Smallest global batch.
        max_batch_size: Largest global batch.
        max_dim: Widest piece, columns.
        max_memory_bytes: Of weights and optimizer state together; None: unlimited.
        max_lookups: In one global batch, over all pieces; None: unlimited.
        optimizers: Drawn uniformly.
        weight_dtypes: fp32 is drawn eight times as often as each other.
        copies: Whether tables may see a part of the batch, as data-parallel copies do.
    """

    max_shards: int = 40
    min_batch_size: int = SMALLEST_BATCH_SIZE
    max_batch_size: int = 262_144
    max_dim: int = WIDEST_DIM
    max_memory_bytes: int | None = None
    max_lookups: int | None = None
    optimizers: tuple[Optimizer, ...] = tuple(Optimizer)
    weight_dtypes: tuple[WeightDtype, ...] = tuple(WeightDtype)
    copies: bool = True

    def __post_init__(self) -> None:
        _require_range("--max-shards", self.max_shards, 1, 10_000)
        _require_range("--max-dim", self.max_dim, COLUMN_MULTIPLE, WIDEST_DIM)
        _require_batches(self.min_batch_size, self.max_batch_size)
        for option, value in (
            ("--max-memory-bytes", self.max_memory_bytes),
            ("--max-lookups", self.max_lookups),
        ):
            if value is not None:
                _require_range(option, value, 4096, 2**62)
        if not self.optimizers or not self.weight_dtypes:
            raise OptionError("at least one optimizer and one weight dtype must be allowed")


@dataclass(frozen=True)
class CommLimits:
    """Bounds on the all-to-alls that are drawn.

    Attributes:
        world_size: Every sample has exactly this many devices; None: 2 to `max_world_size`.
        devices_per_host: Every sample has exactly this many a host; None: 1 to 8.
        max_world_size: Most devices.
        min_batch_size: Smallest global batch.
        max_batch_size: Largest global batch.
        max_device_dim: Largest mean over devices of the sum of embedding dims.
        max_skew_ms: Latest start of a device after the first.
        max_device_bytes: Of what one device sends and receives; None: unlimited.
        held_out: Draw for judging cost models: other samples, and, unless `world_size` is given,
            the world sizes `HELD_OUT_WORLD_SIZES`, which are never drawn otherwise.
    """

    world_size: int | None = None
    devices_per_host: int | None = None
    max_world_size: int = 128
    min_batch_size: int = SMALLEST_BATCH_SIZE
    max_batch_size: int = 262_144
    max_device_dim: int = 8192
    max_skew_ms: float = 20.0
    max_device_bytes: int | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        _require_range("--max-world-size", self.max_world_size, 2, 65_536)
        if self.held_out and self.max_world_size < HELD_OUT_WORLD_SIZES[0]:
            raise OptionError(
                f"--held-out needs --max-world-size {HELD_OUT_WORLD_SIZES[0]} or more"
            )
        _require_range("--max-device-dim", self.max_device_dim, 16, 2**20)
        _require_batches(self.min_batch_size, self.max_batch_size)
        if not (math.isfinite(self.max_skew_ms) and 0 <= self.max_skew_ms <= 10_000):
            raise OptionError(f"--max-skew-ms must be in 0 .. 10000, got {self.max_skew_ms:g}")
        if self.max_device_bytes is not None:
            _require_range("--max-device-bytes", self.max_device_bytes, 2**20, 2**62)
        if self.world_size is not None:
            _require_range("the world size", self.world_size, 2, 65_536)
        if self.devices_per_host is not None:
            world_size = self.world_size or self.devices_per_host
            _require_range("--devices-per-host", self.devices_per_host, 1, 65_536)
            if world_size % self.devices_per_host:
                raise OptionError(
                    f"--devices-per-host must divide the world size ({world_size}), "
                    f"got {self.devices_per_host}"
                )

    def on(self, world_size: int | None, devices_per_host: int | None) -> CommLimits:
        """The same limits on devices that are given."""
        return replace(self, world_size=world_size, devices_per_host=devices_per_host)


def draw_batch_size(rng: np.random.Generator, low: int, high: int) -> int:
    """A batch in `[low, high]`: a power of two in half the draws (where there is one), else any."""
    power = rng.random() < 0.5
    exponent = rng.uniform(math.log2(low), math.log2(high + 1))
    batch_size = min(max(int(2**exponent), low), high)
    rounded = int(2 ** round(math.log2(batch_size)))
    return rounded if power and low <= rounded <= high else batch_size


def _require_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OptionError(f"{option} must be in {low} .. {high}, got {value}")


def _require_batches(low: int, high: int) -> None:
    _require_range("--min-batch-size", low, 1, 2**31)
    _require_range("--max-batch-size", high, 1, 2**31)
    if low > high:
        raise OptionError(f"--max-batch-size must be at least --min-batch-size ({low}), got {high}")
