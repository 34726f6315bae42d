"""Arrays on disk, so that a dataset of any size is trained on with the same memory."""

from __future__ import annotations

import hashlib
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from shardwright_costmodel.errors import DatasetError

Array = npt.NDArray[Any]


class Spool:
    """An array that grows on disk, and is then mapped into memory.

    Its file lies in the folder for temporary files (TMPDIR) and has no name: it goes with the
    process, however that ends. The kernel keeps of it in memory what fits there.

    Attributes:
        digest: SHA-256 of everything written so far.
    """

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise _fault("measurements cannot be spooled", error) from error
        self._rows, self._shape, self._dtype = 0, (), np.dtype(np.float32)
        self.digest = hashlib.sha256()

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: Array) -> None:
        """Adds `[n, ...]` of the shape and dtype of those before.

        Raises:
            DatasetError: When the disk is full.
        """
        content = np.ascontiguousarray(rows).reshape(-1).data
        try:
            self._file.write(content)
        except OSError as error:
            raise self._full(error) from error
        self.digest.update(content)
        self._rows += len(rows)
        self._shape, self._dtype = rows.shape[1:], rows.dtype

    def mapped(self) -> Array:
        """All rows; nothing can be added any more.

        Raises:
            DatasetError: When the disk is full.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._full(error) from error
        shape = (self._rows, *self._shape)
        with self._file as file:
            # the mapping outlives the file that it is made from
            return np.asarray(np.memmap(file, self._dtype, "r+", shape=shape))

    def _full(self, error: OSError) -> DatasetError:
        return _fault(f"no room to spool measurements after {self._rows} rows", error)


def _fault(what: str, error: OSError) -> DatasetError:
    return DatasetError(
        f"{tempfile.gettempdir()}: {what}: {error}; set TMPDIR to a folder on a disk with more room"
    )
