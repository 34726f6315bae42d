"""How good a cost model is, run as a server runs it, on measurements that no fit has seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright_costmodel.bundle import Accuracy
from shardwright_costmodel.features import FloatArray, comm_features
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.metrics import kendall_tau, mape_percent

UNSEEN = "_unseen"
"""Ends the names of quantities judged on measurements of another kind than those trained on."""

_BATCH = 65536
"""Samples of the all-to-all to which a reduce-scatter is compared: one that is in most data."""
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class HeldOut:
    """Measurements that no fit has seen."""

    compute: Measurements
    comm: Measurements
    all_reduce: Measurements
    reduce_scatter: Measurements | None = None


@dataclass(frozen=True)
class Predictions:
    """One quantity of measurements that no fit has seen, as measured and as predicted.

    Attributes:
        quantity: As `Accuracy.quantity`; ends in `UNSEEN` when of another kind of measurements.
        measured_ms: `[n] float32`, above 0.
        predicted_ms: `[n] float32`.
    """

    quantity: str
    measured_ms: FloatArray
    predicted_ms: FloatArray

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
    return tuple(
        Predictions(quantity + suffix, truth, guess) for quantity, (truth, guess) in pairs.items()
    )


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
