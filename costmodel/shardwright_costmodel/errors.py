"""Errors of the cost-model package.

CostModelError
├── DatasetError        a Parquet part is damaged or does not follow the schema
├── BundleError         a bundle is damaged or of a format this version does not read
├── BundleNotFoundError no bundle for a hardware profile or version
└── ExportError         an exported graph does not agree with its torch model
"""

from __future__ import annotations


class CostModelError(Exception):
    """Base of all errors raised by `shardwright_costmodel`; the message names the file."""


class DatasetError(CostModelError):
    """A Parquet part is damaged or does not follow the schema."""


class BundleError(CostModelError):
    """A bundle is damaged or of a format this version does not read."""


class BundleNotFoundError(CostModelError):
    """No bundle for a hardware profile or version; the message lists those there are."""


class ExportError(CostModelError):
    """An exported graph does not agree with its torch model; nothing was published."""
