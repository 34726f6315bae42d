"""One ONNX graph in a session of ONNX Runtime: a batch of rows in, a batch of rows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from shardwright_costmodel.bundle import GRAPH_PORTS
from shardwright_costmodel.errors import BundleError
from shardwright_costmodel.features import FloatArray

ROW_MULTIPLE = 16
"""Batches are padded to a multiple of this, so that every row goes through the same vector code:
the remainder loops of kernels round differently. A row's result then depends on nothing but the
row, bit for bit, which searches in lockstep rely on."""

MAX_ROWS = 65_536
"""Larger batches are run in chunks of this many rows, to bound memory."""


class Graph:
    """One graph in a session of its own: a batch of rows in, a batch of rows out.

    Args:
        content: Serialised ONNX.
        name: One of `GRAPH_NAMES`, which fixes its ports.
        place: Where it comes from, for messages.
        widths: Columns of the input and of every output; None: whatever the graph has.

    Raises:
        BundleError: When ONNX Runtime cannot load it, or it has other inputs or outputs.
    """

    def __init__(
        self, content: bytes, name: str, place: str, widths: tuple[int, int] | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise BundleError(f"{place}: ONNX Runtime cannot load it: {error}") from error
        self._input, self._outputs = GRAPH_PORTS[name]
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._widths = widths or (inputs[0].shape[1], outputs[0].shape[1])
        _check_ports(place, "input", inputs, (self._input,), self._widths[0])
        _check_ports(place, "output", outputs, self._outputs, self._widths[1])

    def run(self, rows: FloatArray, output: int = 0) -> FloatArray:
        """Runs rows `[n, in_width]` and returns one output, `[n, out_width]`, both float32."""
        in_width, out_width = self._widths
        if rows.ndim != 2 or rows.shape[1] != in_width:
            raise ValueError(f"expected rows of {in_width} columns, got shape {rows.shape}")
        if len(rows) <= MAX_ROWS:
            return self._run_padded(rows, output)
        results = np.empty((len(rows), out_width), dtype=np.float32)
        for start in range(0, len(rows), MAX_ROWS):
            chunk = slice(start, start + MAX_ROWS)
            results[chunk] = self._run_padded(rows[chunk], output)
        return results

    def _run_padded(self, rows: FloatArray, output: int) -> FloatArray:
        in_width, out_width = self._widths
        count = len(rows)
        if count == 0:
            return np.empty((0, out_width), dtype=np.float32)
        if count % ROW_MULTIPLE:
            padded = np.zeros((-(-count // ROW_MULTIPLE) * ROW_MULTIPLE, in_width), np.float32)
            padded[:count] = rows
        else:
            padded = np.ascontiguousarray(rows, dtype=np.float32)
        (result,) = self._session.run([self._outputs[output]], {self._input: padded})
        found: FloatArray = result[:count]
        return found


def _check_ports(
    place: str, kind: str, ports: Sequence[Any], names: tuple[str, ...], width: int
) -> None:
    """Requires exactly the inputs or outputs `names` of `[rows, width] float32`, rows dynamic."""
    fits = [port.name for port in ports] == list(names) and all(
        port.type == "tensor(float)"
        and len(port.shape) == 2
        and not isinstance(port.shape[0], int)
        and port.shape[1] == width
        for port in ports
    )
    if not fits:
        described = ", ".join(f"{p.name}: {p.type}{p.shape}" for p in ports) or "none"
        count = "one" if len(names) == 1 else str(len(names))
        raise BundleError(
            f"{place}: must have {count} {kind}{'s' * (len(names) > 1)}, {', '.join(names)}: "
            f"tensor(float)['rows', {width}]; it has {described}"
        )
