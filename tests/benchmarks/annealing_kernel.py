"""The inner loop of the annealing, compiled by numba.

A state is a list of column pieces (table, width in units of four columns, device), and for every
table whether it lies in pieces, in rows over all devices, or in rows over one host. Every proposal
changes a few devices; only their sums are made anew.

Arrays: `n` tables, `w` devices, `p` pieces (with room for more), `u` widths.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from tests.benchmarks import annealing_moves as moves

_njit = numba.njit(cache=True, fastmath=False)


@_njit
def seed(value):
    """Seeds the proposals: numba keeps a generator of its own."""
    np.random.seed(value)


@_njit
def device_ms(work, count, fixed_ms):
    """Compute time of a device of `count` pieces from the sum of their work."""
    if count == 0:
        return 0.0
    forward = math.sqrt(work[0] * work[0] + work[1] * work[1] + work[2] * work[2])
    backward = math.sqrt(work[3] * work[3] + math.sqrt(max(work[5], 0.0)))
    return fixed_ms + forward + work[4] + backward


@_njit
def soft_maximum(values, softness):
    """What is less than the largest by so much counts 1 / e of it."""
    most = values.max()
    total = 0.0
    for value in values:
        total += math.exp((value - most) / softness)
    return most + softness * math.log(total)


@_njit
def transfer_ms(dims, per_host, comm, softness_ms=0.0):
    """One all-to-all; as `roofline.comm`, for `comm` as `annealing.comm_constants` makes it.

    With a softness there is more to it than the device with most to send: a soft maximum.
    """
    w = len(dims)
    if w == 1:
        return 0.0
    slice_bytes, local_rate, remote_rate, latency_ms, overlap = comm
    total = 0.0
    for d in range(w):
        total += dims[d]
    local, remote = 0.0, 0.0
    for host in range(w // per_host):
        on_host, least = 0.0, math.inf
        for d in range(host * per_host, (host + 1) * per_host):
            on_host += dims[d]
            least = min(least, dims[d])
        local = max(local, on_host - least)
        remote = max(remote, total - on_host)
    most = dims.max()
    if softness_ms > 0.0:
        ms = slice_bytes * max((per_host - 1) / local_rate, (w - per_host) / remote_rate)
        most = soft_maximum(dims, softness_ms / ms)
    local = max(local, most * (per_host - 1))
    remote = max(remote, most * (w - per_host))
    local_ms = slice_bytes * local / local_rate
    remote_ms = slice_bytes * remote / remote_rate
    return latency_ms + (local_ms**overlap + remote_ms**overlap) ** (1.0 / overlap)


@_njit
def sum_up(pieces, num_pieces, modes, unit_work, row_work, host_work, bytes_, state, per_host):
    """Makes the devices' sums anew from the pieces: rounding errors of many moves add up."""
    work, used, dims, counts = state
    unit_bytes, row_bytes, host_bytes, table_dims = bytes_
    work[:] = 0.0
    used[:] = 0
    dims[:] = 0.0
    counts[:] = 0
    for i in range(num_pieces):
        t, u, d = pieces[i]
        work[d] += unit_work[t, u]
        used[d] += unit_bytes[t, u]
        dims[d] += 4 * u
        counts[d] += 1
    for t in range(len(modes)):
        if modes[t] == moves.IN_PIECES:
            continue
        first, last = 0, len(dims)
        if modes[t] >= 0:
            first, last = modes[t] * per_host, (modes[t] + 1) * per_host
        for d in range(first, last):
            work[d] += row_work[t] if modes[t] == moves.ON_ALL else host_work[t]
            used[d] += row_bytes[t] if modes[t] == moves.ON_ALL else host_bytes[t]
            dims[d] += table_dims[t]
            counts[d] += 1


@_njit
def energy(compute_ms, transfer, softness_ms):
    """Cost with a soft maximum over devices, so that the second slowest counts a little too."""
    return soft_maximum(compute_ms, softness_ms) + 2.0 * transfer


@_njit
def run(
    steps,
    temperatures_ms,
    pieces,
    num_pieces,
    modes,
    best,
    tables,
    cluster,
    row_share,
):
    """Runs `steps` proposals at one temperature; returns the number of pieces in use.

    Args:
        steps: Proposals.
        temperatures_ms: Of the Metropolis rule; softness of the maximum of computation; of the
            transfers of the widest device, 0: none.
        pieces: `[p, 3] int64`, changed in place.
        num_pieces: Pieces in use.
        modes: `[n] int64`, changed in place.
        best: Pieces, their number `[1]`, modes and cost `[1]` of the best state, changed in place.
        tables: Work `[n, u, 6]`, `[n, 6]`, `[n, 6]` and bytes (tuple) of pieces, row pieces and
            row pieces of a host.
        cluster: Memory `[w]`, devices per host, `comm` constants, fixed ms.
        row_share: Of proposals that put a table into rows or back.
    """
    memory, per_host, comm, fixed_ms = cluster
    temperature_ms, softness_ms, dims_softness_ms = temperatures_ms
    w = len(memory)
    now = _sums_of(pieces, num_pieces, modes, tables, cluster)
    trial = (now[0].copy(), now[1].copy(), now[2].copy(), now[3].copy(), now[4].copy())
    transfer = transfer_ms(now[2], per_host, comm, dims_softness_ms)
    current = energy(now[4], transfer, softness_ms)
    edits = np.empty((4, 4), np.int64)
    touched = np.empty(w, np.int64)
    for _ in range(steps):
        num_edits, toggled, new_mode, target = 0, -1, moves.IN_PIECES, -1
        if row_share > 0.0 and np.random.random() < row_share:
            toggled, new_mode = moves.propose_mode(modes, w, per_host)
            if new_mode == modes[toggled] or num_pieces + 1 > len(pieces):
                continue
            target = np.random.randint(w)
            num_touched = w
            touched[:] = np.arange(w)
            moves.toggle(
                toggled, new_mode, target, pieces, num_pieces, modes, tables, per_host, trial
            )  # fmt: skip
        else:
            if num_pieces == 0:
                continue
            num_edits = moves.propose(pieces, num_pieces, w, now[4].argmax(), edits)
            if num_edits == 0:
                continue
            num_touched = moves.edit_sums(edits, num_edits, tables, trial, touched)
        proposed, fits = current, _fits(trial, memory, touched, num_touched)
        if fits:
            for k in range(num_touched):
                d = touched[k]
                trial[4][d] = device_ms(trial[0][d], trial[3][d], fixed_ms)
            transfer = transfer_ms(trial[2], per_host, comm, dims_softness_ms)
            proposed = energy(trial[4], transfer, softness_ms)
        change = proposed - current
        if not fits or (change > 0 and np.random.random() >= math.exp(-change / temperature_ms)):
            _copy_devices(now, trial, touched, num_touched)
            continue
        current = proposed
        _copy_devices(trial, now, touched, num_touched)
        if toggled >= 0:
            num_pieces = moves.apply_toggle(
                toggled, new_mode, target, pieces, num_pieces, modes, tables[3][3]
            )
        else:
            num_pieces = moves.apply_pieces(pieces, num_pieces, edits, num_edits)
        if dims_softness_ms > 0.0:
            transfer = transfer_ms(now[2], per_host, comm)
        _keep_best(best, pieces, num_pieces, modes, now[4].max() + 2.0 * transfer)
    return num_pieces


@_njit
def _sums_of(pieces, num_pieces, modes, tables, cluster):
    """Work, bytes, dims, counts and compute time of every device."""
    memory, per_host, _, fixed_ms = cluster
    w = len(memory)
    work, used = np.zeros((w, 6)), np.zeros(w, np.int64)
    dims, counts = np.zeros(w), np.zeros(w, np.int64)
    unit_work, row_work, host_work, bytes_ = tables
    state = (work, used, dims, counts)
    sum_up(pieces, num_pieces, modes, unit_work, row_work, host_work, bytes_, state, per_host)
    compute = np.empty(w)
    for d in range(w):
        compute[d] = device_ms(work[d], counts[d], fixed_ms)
    return work, used, dims, counts, compute


@_njit
def _fits(trial, memory, touched, num_touched):
    fits = True
    for k in range(num_touched):
        fits = fits and trial[1][touched[k]] <= memory[touched[k]]
    return fits


@_njit
def _copy_devices(source, target, touched, num_touched):
    for k in range(num_touched):
        d = touched[k]
        target[0][d] = source[0][d]
        target[1][d] = source[1][d]
        target[2][d] = source[2][d]
        target[3][d] = source[3][d]
        target[4][d] = source[4][d]


@_njit
def _keep_best(best, pieces, num_pieces, modes, cost_ms):
    best_pieces, best_count, best_modes, best_cost = best
    if cost_ms < best_cost[0] - 1e-12:
        best_cost[0] = cost_ms
        best_count[0] = num_pieces
        best_pieces[:num_pieces] = pieces[:num_pieces]
        best_modes[:] = modes
