"""The devices of a training job."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from shardwright.domain.errors import Checks
from shardwright.domain.table import MAX_DEVICES

MAX_MEMORY_BYTES = 2**50


@dataclass(frozen=True)
class Cluster:
    """The devices that the shards are placed on; device d is on host `d // devices_per_host`.

    Attributes:
        num_devices: Devices of the job.
        devices_per_host: Devices that share fast links; divides `num_devices`.
        hardware: Hardware profile, such as `nvidia-h100-sxm5-80gb`.
        device_memory_bytes: Memory of each device.
        reserved_memory_bytes: Kept free on each device for everything but embedding shards.
        device_memory_overrides: `(device, memory_bytes)` of devices that differ from
            `device_memory_bytes`; each device once.

    Raises:
        InvalidValueError: With every broken invariant.
    """

    num_devices: int
    devices_per_host: int
    hardware: str
    device_memory_bytes: int
    reserved_memory_bytes: int = 0
    device_memory_overrides: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        checks = Checks()
        counted = checks.require_int(self.num_devices, "num_devices", 1, MAX_DEVICES)
        grouped = checks.require_int(self.devices_per_host, "devices_per_host", 1, MAX_DEVICES)
        if counted and grouped:
            checks.require(
                self.num_devices % self.devices_per_host == 0,
                "devices_per_host",
                f"must divide num_devices ({self.num_devices}), got {self.devices_per_host}",
            )
        checks.require(
            isinstance(self.hardware, str) and 0 < len(self.hardware) <= 128,
            "hardware",
            f"must name a hardware profile, such as 'nvidia-h100-sxm5-80gb', "
            f"got {self.hardware!r:.80}",
        )
        sized = checks.require_int(
            self.device_memory_bytes, "device_memory_bytes", 1, MAX_MEMORY_BYTES
        )
        reserved = checks.require_int(
            self.reserved_memory_bytes, "reserved_memory_bytes", 0, MAX_MEMORY_BYTES
        )
        if sized and reserved:
            checks.require(
                self.reserved_memory_bytes < self.device_memory_bytes,
                "reserved_memory_bytes",
                f"must be below device_memory_bytes ({self.device_memory_bytes}), "
                f"got {self.reserved_memory_bytes}",
            )
        if counted:
            self._check_overrides(checks)
        checks.raise_if_any()

    def _check_overrides(self, checks: Checks) -> None:
        seen: set[int] = set()
        for i, (device, memory_bytes) in enumerate(self.device_memory_overrides):
            path = f"device_memory_overrides[{i}]"
            checks.require_int(device, f"{path}.device", 0, self.num_devices - 1)
            checks.require_int(memory_bytes, f"{path}.memory_bytes", 0, MAX_MEMORY_BYTES)
            checks.require(
                device not in seen,
                f"{path}.device",
                f"must name each device once, got {device} again",
            )
            seen.add(device)

    @property
    def num_hosts(self) -> int:
        """Hosts of the job."""
        return self.num_devices // self.devices_per_host

    def host_of(self, device: int) -> int:
        """The host of a device."""
        return device // self.devices_per_host

    def shard_memory_bytes(self, device: int) -> int:
        """Memory that shards may fill on a device: all but the reservation, never negative."""
        memory_bytes = self._overrides.get(device, self.device_memory_bytes)
        return max(0, memory_bytes - self.reserved_memory_bytes)

    @cached_property
    def _overrides(self) -> dict[int, int]:
        return dict(self.device_memory_overrides)
