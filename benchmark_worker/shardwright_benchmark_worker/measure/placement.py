"""Where the weights of an operator live."""

from __future__ import annotations

from enum import Enum


class Placement(Enum):
    """Values of the column `placement`; names as in fbgemm's `EmbeddingLocation`."""

    DEVICE = "device"
    """In the device's own memory."""
    MANAGED = "managed"
    """In host memory that a GPU reads over its link (unified virtual memory, UVM)."""
    MANAGED_CACHING = "managed_caching"
    """The same, with a cache of rows in the GPU's memory (fbgemm's default: a fifth of them)."""
