"""What cost models are compared with, trained on the same measurements.

- NeuroShard's architecture (arXiv 2305.01868): a network per table, their sum, a network over it;
  for all-to-alls one network per world size, which takes the devices by position. It gets
  logarithms of features and of times, without which it is far worse on batches of 512 to 262144.
- The sum of single-table costs, and linear functions of the bytes that are moved.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shardwright_benchmark_worker.roofline import comm_times, get_profile
from shardwright_benchmark_worker.sampling import CommLimits, draw_comm_sample
from shardwright_costmodel.features import FloatArray, comm_features
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.shard_terms import shard_amounts

Array = npt.NDArray[np.float64]
BATCH_SIZE = 512
LEARNING_RATE = 1e-3
_NUM_AMOUNTS = 4
"""Columns of a shard, from the first, that span decades: rows, columns, pooling, batch."""
_TRAFFIC = [2, 4, 6, 7, 9]
"""Of `shard_amounts`: lookups, and the bytes put out, gathered, scattered and updated."""


class TableNet(nn.Module):
    """A network per table, 128-32, their sum, and one over it, 64: logarithms of two times."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, tables: Tensor, operator: Tensor, count: int) -> Tensor:
        """`[n, width]` tables of operators `[n]` to `[count, 2]`."""
        encodings = self.table(tables)
        times: Tensor = self.head(encodings.new_zeros(count, 32).index_add(0, operator, encodings))
        return times


def neuroshard_compute(data: Measurements, judged: Measurements, epochs: int) -> Array:
    """Times predicted for `judged`, `[r, 2]`, after a fit to `data`."""
    torch.manual_seed(0)
    tables, log_ms = _logs(data.features), torch.log(torch.from_numpy(data.times_ms))
    mean, deviation = tables.mean(dim=0), tables.std(dim=0).clamp(min=1e-6)
    net = TableNet(tables.shape[1])
    starts = np.cumsum(data.counts) - data.counts

    def predict(measurements: Measurements) -> Tensor:
        operator = torch.from_numpy(np.repeat(np.arange(len(measurements)), measurements.counts))
        rows = (_logs(measurements.features) - mean) / deviation
        return net(rows, operator, len(measurements))

    def loss(groups: Tensor) -> Tensor:
        counts = data.counts[groups]
        items = np.repeat(starts[groups] - np.cumsum(counts) + counts, counts)
        items = items + np.arange(counts.sum())
        operator = torch.from_numpy(np.repeat(np.arange(len(groups)), counts))
        rows = (tables[items] - mean) / deviation
        return nn.functional.mse_loss(net(rows, operator, len(groups)), log_ms[groups])

    _fit(net, loss, len(data), epochs)
    with torch.no_grad():
        return np.asarray(torch.exp(predict(judged)), dtype=np.float64)


def _logs(shards: FloatArray) -> Tensor:
    rows = torch.from_numpy(shards).clone()
    rows[:, :_NUM_AMOUNTS] = torch.log(rows[:, :_NUM_AMOUNTS])
    return rows


def neuroshard_comm(
    hardware: str, world_size: int, devices_per_host: int, samples: int, epochs: int
) -> tuple[FloatArray, Array, Array]:
    """One network for one kind of job, on as many all-to-alls of that job as ours had in all.

    Returns:
        Features of the devices of held-out all-to-alls as our models take them, the true times and
        the predicted ones, `[devices]`.
    """
    limits = CommLimits(max_skew_ms=0.0).on(world_size, devices_per_host)
    drawn = [draw_comm_sample(limits, 0, index) for index in range(samples)]
    profile = get_profile(hardware)
    times = np.stack([comm_times(profile, s).backward_ms for s in drawn])
    # data sizes by position; NeuroShard's batch is fixed, ours is not
    sizes = np.stack([s.dims * (s.global_batch_size / world_size * 4e-6) for s in drawn])
    inputs, targets = (
        torch.log(torch.from_numpy(x.astype(np.float32))) for x in (sizes + 1e-3, times)
    )
    inputs = (inputs - inputs.mean()) / inputs.std()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(world_size, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32),
        nn.ReLU(), nn.Linear(32, world_size),
    )  # fmt: skip
    held_out = samples // 10
    _fit(
        net,
        lambda groups: nn.functional.mse_loss(
            net(inputs[held_out:][groups]), targets[held_out:][groups]
        ),
        samples - held_out,
        epochs,
    )
    features = np.concatenate(
        [
            comm_features([s.dims], devices_per_host, s.global_batch_size)[0]
            for s in drawn[:held_out]
        ]
    )
    with torch.no_grad():
        predicted = np.asarray(torch.exp(net(inputs[:held_out])), dtype=np.float64)
    return features, times[:held_out].ravel(), predicted.ravel()


def _fit(net: nn.Module, loss: Callable[[Tensor], Tensor], count: int, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    for _ in range(epochs):
        for groups in torch.randperm(count).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(groups).backward()
            optimizer.step()
        schedule.step()


def sum_of_singles(model: OnnxCostModel, judged: Measurements) -> Array:
    """The costs of an operator's tables alone by our own model, added, `[r, 2]`."""
    alone = model.compute_ms(model.encode(judged.features)).astype(np.float64)
    return np.asarray(np.add.reduceat(alone, np.cumsum(judged.counts) - judged.counts))


def linear_compute(data: Measurements, judged: Measurements) -> Array:
    """A constant and the bytes an operator moves, by least relative squares, `[r, 2]`."""
    return _linear(_operator_bytes(data), data.times_ms, _operator_bytes(judged))


def linear_comm(data: Measurements, judged: Measurements) -> Array:
    """A constant, the peers, and the bytes a device sends inside and outside its host, `[n, 2]`."""
    return _linear(_device_bytes(data), data.times_ms, _device_bytes(judged))


def _operator_bytes(data: Measurements) -> Array:
    amounts = shard_amounts(torch.from_numpy(data.features)).numpy().astype(np.float64)
    sums = np.add.reduceat(amounts[:, _TRAFFIC], np.cumsum(data.counts) - data.counts)
    return np.column_stack([np.ones(len(sums)), sums])


def _device_bytes(data: Measurements) -> Array:
    world, per_host, batch, own = data.features.astype(np.float64).T[:4]
    to_peer = own * batch / world * 4
    columns = [np.ones(len(own)), world - per_host, to_peer * (per_host - 1)]
    return np.column_stack([*columns, to_peer * (world - per_host)])


def _linear(inputs: Array, times_ms: FloatArray, judged: Array) -> Array:
    scale = inputs.mean(axis=0)
    predicted = []
    for times in times_ms.T.astype(np.float64):
        weights = np.linalg.lstsq(inputs / scale / times[:, None], np.ones(len(times)))[0]
        predicted.append(judged / scale @ weights)
    return np.stack(predicted, axis=1)
