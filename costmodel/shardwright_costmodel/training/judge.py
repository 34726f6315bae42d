"""How good a cost model is, run as a server runs it, on measurements that no fit has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shardwright_costmodel.bundle import Accuracy
from shardwright_costmodel.features import (
    ALL_REDUCE_COLUMNS,
    COMM_COLUMNS,
    SHARD_COLUMNS,
    FloatArray,
    comm_features,
)
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.data import evenly
from shardwright_costmodel.training.measurements import IntArray, Measurements
from shardwright_costmodel.training.metrics import kendall_tau, mape_percent

UNSEEN = "_unseen"
"""Ends the names of quantities judged on measurements of another kind than those trained on."""

_BATCH = 65536
"""Samples of the all-to-all to which a reduce-scatter is compared: one that is in most data."""
_FLOAT_BYTES = 4
MAX_JUDGED = 10_000
"""Fused operators, or collectives, that a model is judged on: more would not tell more."""


@dataclass(frozen=True)
class HeldOut:
    """Measurements that no fit has seen."""

    compute: Measurements
    comm: Measurements
    all_reduce: Measurements
    reduce_scatter: Measurements | None = None


def judged(data: Measurements, groups: IntArray | None = None) -> Measurements:
    """What a model is judged on: of some groups, or of all, at most `MAX_JUDGED`."""
    chosen = np.arange(len(data)) if groups is None else groups
    return data.select(evenly(chosen, MAX_JUDGED))


@dataclass(frozen=True)
class Predictions:
    """One quantity of measurements that no fit has seen, as measured and as predicted.

    Attributes:
        quantity: As `Accuracy.quantity`; ends in `UNSEEN` when of another kind of measurements.
        measured_ms: `[n] float32`, above 0.
        predicted_ms: `[n] float32`.
        conditions: What each was measured of, such as `tables` or `world size`, `[n]`: errors
            differ with it.
    """

    quantity: str
    measured_ms: FloatArray
    predicted_ms: FloatArray
    conditions: Mapping[str, FloatArray] = field(default_factory=dict)

    def accuracy(self) -> Accuracy:
        """How good they are."""
        return Accuracy(
            quantity=self.quantity,
            mape_percent=round(mape_percent(self.measured_ms, self.predicted_ms), 4),
            kendall_tau=round(kendall_tau(self.measured_ms, self.predicted_ms), 6),
            num_measurements=len(self.measured_ms),
        )


def predict(model: OnnxCostModel, held_out: HeldOut, suffix: str = "") -> tuple[Predictions, ...]:
    """Asks a cost model, run as a server runs it, for what was measured.

    Args:
        model: The cost model.
        held_out: The measurements.
        suffix: Appended to the names of the quantities.
    """
    predicted = model.compute_ms(_device_encodings(model, held_out.compute))
    measured = held_out.compute.times_ms
    comm, all_reduce = held_out.comm, held_out.all_reduce
    pairs = {
        "compute_forward": (measured[:, 0], predicted[:, 0]),
        "compute_backward": (measured[:, 1], predicted[:, 1]),
        "compute": (measured.sum(axis=1), predicted.sum(axis=1)),
        "forward_comm": (comm.times_ms[:, 0], model.forward_comm_ms(comm.features)),
        "backward_comm": (comm.times_ms[:, 1], model.backward_comm_ms(comm.features)),
        "all_reduce": (all_reduce.times_ms[:, 0], model.all_reduce_ms(all_reduce.features)),
    }
    if held_out.reduce_scatter is not None:
        scattered = held_out.reduce_scatter
        equivalent = equivalent_all_to_all(scattered.features)
        pairs["reduce_scatter"] = (scattered.times_ms[:, 0], model.forward_comm_ms(equivalent))
    of_kind = _conditions(held_out)
    return tuple(
        Predictions(quantity + suffix, truth, guess, of_kind[_KINDS[quantity]])
        for quantity, (truth, guess) in pairs.items()
    )


_KINDS = {
    "compute_forward": "compute",
    "compute_backward": "compute",
    "compute": "compute",
    "forward_comm": "comm",
    "backward_comm": "comm",
    "all_reduce": "all_reduce",
    "reduce_scatter": "reduce_scatter",
}


def _conditions(held_out: HeldOut) -> dict[str, dict[str, FloatArray]]:
    """What the values of each kind of measurement were measured of."""
    operators = held_out.compute
    shard = dict(zip(SHARD_COLUMNS, operators.features.T, strict=True))
    starts = np.cumsum(operators.counts) - operators.counts
    tables = operators.counts.astype(np.float32)
    conditions: dict[str, dict[str, FloatArray]] = {
        "compute": {
            "tables": tables,
            "mean dim": np.asarray(
                np.add.reduceat(shard["num_columns"], starts) / tables, np.float32
            ),
            "batch size": np.maximum.reduceat(shard["global_batch_size"], starts),
        },
        "comm": _job(held_out.comm.features, COMM_COLUMNS),
        "all_reduce": _job(held_out.all_reduce.features, ALL_REDUCE_COLUMNS),
    }
    if held_out.reduce_scatter is not None:
        features = held_out.reduce_scatter.features
        conditions["reduce_scatter"] = _job(features, ALL_REDUCE_COLUMNS)
    return conditions


def _job(features: FloatArray, columns: tuple[str, ...]) -> dict[str, FloatArray]:
    column = dict(zip(columns, features.T, strict=True))
    job = {
        "world size": column["world_size"],
        "hosts": column["world_size"] / column["devices_per_host"],
    }
    if "num_bytes" in column:
        return job | {"bytes": column["num_bytes"]}
    return job | {"batch size": column["global_batch_size"], "mean dim": column["mean_dim"]}


def equivalent_all_to_all(reduce_scatters: FloatArray) -> FloatArray:
    """A device of the all-to-all that moves as much as a reduce-scatter.

    A row-wise table's partial sums, of all samples and its full width, lie on every device, and
    each device gets those of its samples: every device sends what it would in an all-to-all of that
    width. Plans are judged so.

    Args:
        reduce_scatters: `[n, 3]`: world size, devices per host, bytes of input on every device.

    Returns:
        `[n, len(COMM_COLUMNS)] float32`.
    """
    return np.concatenate(
        [
            comm_features(
                np.full((1, int(world)), num_bytes / (_BATCH * _FLOAT_BYTES)), int(per_host), _BATCH
            )[0, :1]
            for world, per_host, num_bytes in reduce_scatters
        ]
    )


def mean_floor_ratio(model: OnnxCostModel, held_out: HeldOut) -> dict[str, float]:
    """How tight the floors are: the mean of floor over prediction, by quantity."""
    encodings = _device_encodings(model, held_out.compute)
    predicted, floor = model.compute_ms(encodings), model.compute_floor_ms(encodings)
    devices = held_out.comm.features
    ratios = {
        "compute_forward": floor[:, 0] / predicted[:, 0],
        "compute_backward": floor[:, 1] / predicted[:, 1],
        "compute": floor.sum(axis=1) / predicted.sum(axis=1),
        "forward_comm": model.forward_comm_floor_ms(devices) / model.forward_comm_ms(devices),
        "backward_comm": model.backward_comm_floor_ms(devices) / model.backward_comm_ms(devices),
    }
    return {quantity: round(float(ratio.mean()), 4) for quantity, ratio in ratios.items()}


def _device_encodings(model: OnnxCostModel, operators: Measurements) -> FloatArray:
    encodings = model.encode(operators.features)
    starts = np.cumsum(operators.counts) - operators.counts
    return np.asarray(np.add.reduceat(encodings, starts))
