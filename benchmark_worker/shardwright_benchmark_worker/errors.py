"""Errors of the benchmark worker.

WorkerError
├── PoolError         the table pool is missing or damaged; names file and line
├── ProfileError      no such roofline profile; lists those there are
├── DeviceError       the device is missing, or cannot do what was asked
├── LaunchError       a job of several processes was started wrongly
│   └── LostRankError another of its processes is lost; may pass
├── PlanFileError     a plan or its request cannot be read, or the two do not fit
├── StoreError        the dataset's store is away or full; may pass
└── OptionError       an option is out of range or does not fit the others

The exit status is 2, for which starting again does not help, or 1 for what may pass.
"""

from __future__ import annotations


class WorkerError(Exception):
    """Base of all errors raised by `shardwright_benchmark_worker`; the message is for users.

    Attributes:
        exit_status: Of a process that ends with it.
    """

    exit_status = 2


class PoolError(WorkerError):
    """The table pool is missing or damaged."""


class ProfileError(WorkerError):
    """No such roofline profile."""


class DeviceError(WorkerError):
    """The device is missing, or cannot do what was asked."""


class LaunchError(WorkerError):
    """A job of several processes was started wrongly."""


class LostRankError(LaunchError):
    """Another process of a job is lost."""

    exit_status = 1


class PlanFileError(WorkerError):
    """A plan or its request cannot be read, or the two do not fit."""


class StoreError(WorkerError):
    """The dataset's store cannot be reached, or is full."""

    exit_status = 1


class OptionError(WorkerError):
    """An option is out of range or does not fit the others."""
