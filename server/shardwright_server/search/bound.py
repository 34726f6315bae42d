"""A lower bound of what any legal plan costs, by the same cost models: the certificate of a plan.

The cost of a plan (`cost`) is

    max_d(compute_d + backward_comm_d) + max_d forward_comm_d

since every device's total and wait add up to its forward transfer after the last arrival.

*Floors.* A bundle brings a function f, the floor of the computation: nondecreasing in every
channel, convex in all but the last few, the peaks, while those are held, and f(S) <= compute(S)
for the encoding S > 0 of any device that holds something; at 0 it is the limit from above, so it
includes the fixed cost of a non-empty operator. The floors of the transfers depend on the job and
on the mean over devices of the sum of dims alone, do not fall with that mean, and lie below the
prediction for every device of any plan with that mean.

*Average device.* A plan uses k >= 1 devices, at most n. With S the sum of the encodings of all its
pieces, by convexity

    max_d compute_d >= (1/k) sum_d f(S_d) >= f(S / k) >= f(S / n) >= f(T / n)

where d runs over the k devices in use, and T <= S is the sum over tables of the least work that
each can bring (`least_work`): channel by channel the minimum over all allowed ways to cut it, as
the encodings of the pieces of different tables add. n is the number of devices, or of pieces if
there cannot be so many. The same holds for the tables that constraints keep on a set of devices,
with the size of that set for n; and for a colocation group, with n = 1.

*Peaks.* The peaks of a device, which stand for its hottest row, are at least those of any piece
that it holds; f is not convex in them. So in S / k, S / n and T / n they are not shared out: they
stand for the least that every device in use has, channel by channel the minimum over tables and
allowed pieces. And for each number i: the i tables with the largest peaks lie on at most n devices,
each of which has the least peaks among those tables or more, and together their least work.

*One way for all channels.* With x = S / n >= z = T / n in every channel, and slopes
0 <= g_c <= (f(z) - f(z - h_c e_c)) / h_c, which convexity keeps below the derivatives of f at z,

    f(x) >= f(z) + sum_c g_c (x_c - z_c) >= f(z) + (1/n) sum_t min_cuts g . (its encodings) - g . z

where each table is cut in one way for all channels, the best by the weights g. So what the channel
by channel minimum gave away is won back to first order, from values of f alone.

*Busiest device.* Of every table some device holds, when the table is
    whole          all of it;
    cut in columns at least a 1/m part of its width, where m devices can hold pieces of it: in
                   each channel at least the least sum over pieces that are together so wide;
    in rows        exactly one row piece;   copied     exactly one copy.
So max_d compute_d >= min over these ways of f(that piece), for every table. This wins when a table
must lie whole or in few pieces.

*Transfers.* Each table adds its dims at least once to those of the devices (row-wise more often),
unless it is data-parallel. Copies must fit together into the smallest device: what they can save at
most is the fractional knapsack of dims by memory. So the mean of dims is known from below, and with
it both transfers of every device. An all-reduce costs what it costs where the copied tables are
fixed, and is taken to be free where they are not.

The bound is the largest bound of the computation plus both transfers, raised by what a plan below
it could not do (`tightening`): there, tables that must be cut in rows lie on every device, and so
do their peaks. Predictions are rounded to float32: `SUM_SLACK` covers the rounding of sums of up to
1600 encodings, in any order, before a nondecreasing function; `MODEL_SLACK` that of the graphs.

The bound is weak where whole tables cannot be spread evenly, and where floors lie well below the
models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shardwright.domain import SearchOptions, colocation_groups
from shardwright_costmodel.features import FloatArray, comm_features
from shardwright_server.search.cost import PlanEvaluator, gradient_bytes
from shardwright_server.search.cost_model import CostModel
from shardwright_server.search.least_work import LeastWork, least_work
from shardwright_server.search.pieces import Float64Array
from shardwright_server.search.reach import Reach
from shardwright_server.search.tightening import Average, Tangent, tightened_ms

SUM_SLACK = 1e-4
MODEL_SLACK = 1e-5
FLOOR_ROUNDING = 1e-6
"""Of a floor computed in float32, relative."""
SLOPE_STEP = 0.2
"""Steps of the slopes, relative: wide against rounding, narrow against curvature."""


def lower_bound_ms(
    evaluator: PlanEvaluator,
    options: SearchOptions,
    cost_model: CostModel,
    on_step: Callable[[], None] = lambda: None,
) -> float:
    """A cost, ms, that no plan undercuts that is legal, fits, and keeps the constraints.

    See the module for the argument.

    Args:
        evaluator: Of the problem.
        options: Name the sharding types that tables without constraints may have.
        cost_model: The evaluator's.
        on_step: Called often; may raise to stop.
    """
    work = least_work(evaluator, options, cost_model, on_step)
    peaks = work.least_peaks(cost_model.peak_channels).astype(np.float64)
    num_devices = _most_devices(work, range(len(work.total)))
    average = _average_devices(work, peaks, num_devices)
    hottest = _hottest_devices(work, peaks, num_devices)
    devices = [average, hottest, _group_devices(evaluator, work)]
    floors_ms = _floor_ms(cost_model, np.concatenate([*devices, work.busiest]))
    of_tables_ms = floors_ms[len(floors_ms) - len(work.busiest) :]
    shared_ms = float(floors_ms[: len(floors_ms) - len(work.busiest)].max())
    compute_ms = max(shared_ms, _busiest_device_ms(work, of_tables_ms))

    known_ms: dict[float, float] = {}

    def transfer_ms(dims: Float64Array) -> float:
        least = _least_dims(evaluator, work, dims)
        if least not in known_ms:
            known_ms[least] = _transfer_ms(evaluator, work, least, cost_model)
        return known_ms[least]

    bound_ms = compute_ms + transfer_ms(work.dims)
    on_step()
    if work.ways:
        bound_ms = tightened_ms(
            bound_ms,
            work,
            work.ways,
            average[0, average.shape[1] - peaks.shape[1] :],
            Average(
                evaluator.problem.cluster.num_devices,
                lambda held: _tangent(cost_model, average[0], held, num_devices),
                transfer_ms,
                lambda encodings: _floor_ms(cost_model, encodings),
            ),
            on_step,
        )
    return (1.0 - MODEL_SLACK) * bound_ms


def _floor_ms(cost_model: CostModel, encodings: Float64Array | FloatArray) -> Float64Array:
    """Floors of devices, `[m, e] -> [m] float64`, ms."""
    least = ((1.0 - SUM_SLACK) * encodings).astype(np.float32)
    return np.asarray(cost_model.compute_floor_ms(least).astype(np.float64).sum(axis=1))


def _average_devices(work: LeastWork, peaks: Float64Array, num_devices: int) -> Float64Array:
    """Mean encodings: of all devices, and of each set of devices that tables are kept on."""
    total = _without_peaks(work, peaks)
    sets: dict[int, tuple[Reach, list[int]]] = {}
    for i, reach in enumerate(work.reach):
        sets.setdefault(id(reach), (reach, []))[1].append(i)
    everything = list(range(len(total)))
    groups = [(everything, num_devices)]
    if len(sets) > 1 or not work.reach[0].everywhere:
        groups += [
            (members, min(len(reach.devices), _most_devices(work, members)))
            for reach, members in sets.values()
        ]
    means = np.array([total[members].sum(axis=0) / most for members, most in groups])
    if peaks.shape[1]:
        means[:, -peaks.shape[1] :] = [peaks[members].min(axis=0) for members, _ in groups]
    return means


def _without_peaks(work: LeastWork, peaks: Float64Array) -> Float64Array:
    total = work.total.astype(np.float64)
    total[:, total.shape[1] - peaks.shape[1] :] = 0.0
    return total


def _hottest_devices(work: LeastWork, peaks: Float64Array, num_devices: int) -> Float64Array:
    """Mean encodings of the devices with the i tables of the largest peaks, for every i, `[t, e]`.

    As many devices as all tables can use: more than those i can only lower the mean.
    """
    if not peaks.shape[1]:
        return np.empty((0, work.total.shape[1]))
    order = np.argsort(-peaks.min(axis=1), kind="stable")
    means = np.cumsum(_without_peaks(work, peaks)[order], axis=0)
    means /= num_devices
    means[:, -peaks.shape[1] :] = np.minimum.accumulate(peaks[order], axis=0)
    return means


def _most_devices(work: LeastWork, tables: Sequence[int]) -> int:
    """Devices that some tables can use at most."""
    reached = set[int]()
    for reach in {id(work.reach[i]): work.reach[i] for i in tables}.values():
        reached.update(reach.devices.tolist())
    return max(1, min(len(reached), int(work.pieces[tables].sum())))


def _tangent(
    cost_model: CostModel, average: Float64Array, peaks: Float64Array, num_devices: int
) -> Tangent:
    """Of the average device's floor, where each channel is at its least and peaks are held."""
    first_peak = len(average) - len(peaks)
    least = (1.0 - SUM_SLACK) * np.concatenate([average[:first_peak], peaks])
    least = least.astype(np.float32).astype(np.float64)
    points = (np.concatenate([least[None], least - np.diag(SLOPE_STEP * least)])).astype(np.float32)
    floor_ms = cost_model.compute_floor_ms(points).astype(np.float64).sum(axis=1)
    # less what rounding may have added to a difference of two floors
    rises_ms = np.maximum(0.0, floor_ms[0] - floor_ms[1:] - 2.0 * FLOOR_ROUNDING * floor_ms[0])
    steps = least - points[1:].diagonal()
    slopes = np.divide(rises_ms, steps, out=np.zeros_like(steps), where=steps > 0)
    slopes[first_peak:] = 0.0
    constant_ms = float(floor_ms[0] - slopes @ least)
    return Tangent(constant_ms, (1.0 - SUM_SLACK) * slopes / num_devices)


def _group_devices(evaluator: PlanEvaluator, work: LeastWork) -> Float64Array:
    """The device of each colocation group, with nothing else on it, `[g, e]`."""
    groups = colocation_groups(evaluator.problem.tables).values()
    sums = [work.total[members].sum(axis=0, dtype=np.float64) for members in groups]
    return np.array(sums, dtype=np.float64).reshape(len(sums), work.total.shape[1])


def _busiest_device_ms(work: LeastWork, floors_ms: Float64Array) -> float:
    """The largest over tables of the least over ways, ms, by the floors of all ways."""
    least = np.full(len(work.total), np.inf)
    np.minimum.at(least, work.busiest_tables, floors_ms)
    return float(least[np.isfinite(least)].max(initial=0.0))


def _transfer_ms(
    evaluator: PlanEvaluator, work: LeastWork, least_dims: float, cost_model: CostModel
) -> float:
    """Forward and backward transfers at the least sum of dims, and a fixed all-reduce."""
    cluster = evaluator.problem.cluster
    mean_dim = least_dims / cluster.num_devices
    even = np.full((1, cluster.num_devices), (1.0 - SUM_SLACK) * mean_dim)
    batch = evaluator.problem.global_batch_size
    features = comm_features(even, cluster.devices_per_host, batch)[:, 0]
    transfers = cost_model.forward_comm_floor_ms(features)
    transfers = transfers + cost_model.backward_comm_floor_ms(features)
    return float(transfers[0]) + _all_reduce_ms(evaluator, work, cost_model)


def _least_dims(evaluator: PlanEvaluator, work: LeastWork, dims: Float64Array) -> float:
    """Least sum of dims over all devices; `dims` are those of tables that are not copied."""
    problem, room = evaluator.problem, float(evaluator.memory_bytes.min())
    least = float(dims[~work.copied].sum())
    optional = np.flatnonzero(work.copied & ~work.only_copied)
    copy_bytes = {i: problem.replica_bytes(problem.tables[i]) for i in optional.tolist()}
    # copies that save most for their memory, until the smallest device is full
    for i in sorted(copy_bytes, key=lambda i: -dims[i] / copy_bytes[i]):
        copied = min(1.0, room / copy_bytes[i])
        room -= copied * copy_bytes[i]
        least += (1.0 - copied) * dims[i]
    return least


def _all_reduce_ms(evaluator: PlanEvaluator, work: LeastWork, cost_model: CostModel) -> float:
    if not work.only_copied.any() or (work.copied & ~work.only_copied).any():
        return 0.0
    problem = evaluator.problem
    tables = [problem.tables[i] for i in np.flatnonzero(work.only_copied)]
    cluster = problem.cluster
    num_bytes = sum(map(gradient_bytes, tables))
    row = [[cluster.num_devices, cluster.devices_per_host, num_bytes]]
    return float(cost_model.all_reduce_ms(np.array(row, dtype=np.float32))[0])
