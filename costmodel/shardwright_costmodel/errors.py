"""Errors of the cost-model package.

CostModelError
├── DatasetError        a Parquet part is damaged or does not follow the schema
├── BundleError         a bundle, or `promoted.json`, is damaged or of a format not read here
├── BundleNotFoundError no bundle for a hardware profile or version
├── NotPromotedError    a bundle is worse than the promoted one
├── CheckpointError     a training cannot go on from, or write, a checkpoint
├── DeviceError         a device to train on is not there
└── ExportError         an exported graph does not agree with its torch model
"""

from __future__ import annotations

import re

_USER_OF_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)


class CostModelError(Exception):
    """Base of all errors raised by `shardwright_costmodel`; the message names the file.

    What stands before the `@` of a URL, a name and perhaps a password, is left out of the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


def without_secrets(text: str) -> str:
    """A text without the users and passwords of the URLs in it."""
    return _USER_OF_URL.sub(r"\1***@", text)


class DatasetError(CostModelError):
    """A Parquet part is damaged or does not follow the schema."""


class BundleError(CostModelError):
    """A bundle, or `promoted.json`, is damaged, cannot be read, or of a format not read here."""


class BundleNotFoundError(CostModelError):
    """No bundle for a hardware profile or version; the message lists those there are."""


class NotPromotedError(CostModelError):
    """A bundle is worse than the promoted one, or cannot be compared with it; it says how."""


class CheckpointError(CostModelError):
    """A checkpoint is damaged, of another training, or cannot be written."""


class DeviceError(CostModelError):
    """A device to train on is not there."""


class ExportError(CostModelError):
    """An exported graph does not agree with its torch model; nothing was published."""
