"""Errors of the benchmark worker.

WorkerError
├── PoolError         the table pool is missing or damaged; names file and line
├── ProfileError      no such roofline profile; lists those there are
├── DeviceError       the device is missing, or cannot do what was asked
├── LaunchError       a communication benchmark was started wrongly or lost a rank
└── OptionError       an option is out of range or does not fit the others
"""

from __future__ import annotations


class WorkerError(Exception):
    """Base of all errors raised by `shardwright_benchmark_worker`; the message is for users."""


class PoolError(WorkerError):
    """The table pool is missing or damaged."""


class ProfileError(WorkerError):
    """No such roofline profile."""


class DeviceError(WorkerError):
    """The device is missing, or cannot do what was asked."""


class LaunchError(WorkerError):
    """A communication benchmark was started wrongly or lost a rank."""


class OptionError(WorkerError):
    """An option is out of range or does not fit the others."""
