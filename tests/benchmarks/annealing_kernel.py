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

IN_PIECES = -2
ON_ALL = -1
"""Modes of a table; one of 0 .. hosts - 1: in rows over the devices of that host."""

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
def transfer_ms(dims, per_host, comm):
    """One all-to-all; as `roofline.comm`, for `comm` as `annealing.comm_constants` makes it."""
    w = len(dims)
    if w == 1:
        return 0.0
    slice_bytes, local_rate, remote_rate, latency_ms, overlap = comm
    total = 0.0
    for d in range(w):
        total += dims[d]
    local, remote = 0.0, 0.0
    for host in range(w // per_host):
        on_host, most = 0.0, 0.0
        least = math.inf
        for d in range(host * per_host, (host + 1) * per_host):
            on_host += dims[d]
            most = max(most, dims[d])
            least = min(least, dims[d])
        local = max(local, most * (per_host - 1), on_host - least)
        remote = max(remote, most * (w - per_host), total - on_host)
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
        if modes[t] == IN_PIECES:
            continue
        first, last = 0, len(dims)
        if modes[t] >= 0:
            first, last = modes[t] * per_host, (modes[t] + 1) * per_host
        for d in range(first, last):
            work[d] += row_work[t] if modes[t] == ON_ALL else host_work[t]
            used[d] += row_bytes[t] if modes[t] == ON_ALL else host_bytes[t]
            dims[d] += table_dims[t]
            counts[d] += 1


@_njit
def energy(compute_ms, transfer, softness_ms):
    """Cost with a soft maximum over devices, so that the second slowest counts a little too."""
    most = compute_ms.max()
    total = 0.0
    for c in compute_ms:
        total += math.exp((c - most) / softness_ms)
    return most + softness_ms * math.log(total) + 2.0 * transfer


@_njit
def _on_device(pieces, num_pieces, device):
    """A random piece of a device; -1 where it has none."""
    chosen, met = -1, 0
    for i in range(num_pieces):
        if pieces[i, 2] == device:
            met += 1
            if np.random.randint(met) == 0:
                chosen = i
    return chosen


@_njit
def _sibling(pieces, num_pieces, i):
    """Another piece of the same table, the first after a random place; -1 where there is none."""
    start = np.random.randint(num_pieces)
    for step in range(num_pieces):
        j = (start + step) % num_pieces
        if j != i and pieces[j, 0] == pieces[i, 0]:
            return j
    return -1


@_njit
def _propose(pieces, num_pieces, w, slowest, edits):
    """Writes pieces to take away and to put down into `edits`; returns how many of each.

    `edits[:, 0]` is -1 for a piece to put down, else the place of a piece to take away.
    """
    kind = np.random.random()
    i = np.random.randint(num_pieces)
    if np.random.random() < 0.5:
        picked = _on_device(pieces, num_pieces, slowest)
        i = i if picked < 0 else picked
    t, u, d = pieces[i]
    other = np.random.randint(w)
    if kind < 0.35:
        if other == d:
            return 0
        _write(edits, 0, i, t, u, d)
        _write(edits, 1, -1, t, u, other)
        return 2
    if kind < 0.70:
        j = np.random.randint(num_pieces)
        t2, u2, d2 = pieces[j]
        if d2 == d or (t2 == t and u2 == u):
            return 0
        _write(edits, 0, i, t, u, d)
        _write(edits, 1, j, t2, u2, d2)
        _write(edits, 2, -1, t, u, d2)
        _write(edits, 3, -1, t2, u2, d)
        return 4
    if kind < 0.80:
        if u < 2 or other == d or num_pieces + 2 > len(pieces):
            return 0
        part = u // 2 if np.random.random() < 0.5 else 1 + np.random.randint(u - 1)
        _write(edits, 0, i, t, u, d)
        _write(edits, 1, -1, t, u - part, d)
        _write(edits, 2, -1, t, part, other)
        return 3
    j = _sibling(pieces, num_pieces, i)
    if j < 0:
        return 0
    u2, d2 = pieces[j, 1], pieces[j, 2]
    _write(edits, 0, i, t, u, d)
    _write(edits, 1, j, t, u2, d2)
    if kind < 0.92 or d == d2:
        _write(edits, 2, -1, t, u + u2, d if np.random.random() < 0.5 else d2)
        return 3
    shift = 1 + np.random.randint(min(u, 8))
    if shift >= u:
        return 0
    _write(edits, 2, -1, t, u - shift, d)
    _write(edits, 3, -1, t, u2 + shift, d2)
    return 4


@_njit
def _write(edits, row, place, t, u, d):
    edits[row, 0], edits[row, 1], edits[row, 2], edits[row, 3] = place, t, u, d


@_njit
def _apply_pieces(pieces, num_pieces, edits, num_edits):
    """Carries edits out on the list of pieces; returns its new length."""
    puts, takes = 0, 0
    for e in range(num_edits):
        takes += edits[e, 0] >= 0
        puts += edits[e, 0] < 0
    place = np.empty(2, np.int64)
    k = 0
    for e in range(num_edits):
        if edits[e, 0] >= 0:
            place[k] = edits[e, 0]
            k += 1
    k = 0
    for e in range(num_edits):
        if edits[e, 0] >= 0:
            continue
        at = num_pieces if k >= takes else place[k]
        num_pieces += k >= takes
        pieces[at] = edits[e, 1:]
        k += 1
    if takes > puts:  # the last piece fills the gap
        num_pieces -= 1
        pieces[place[1]] = pieces[num_pieces]
    return num_pieces


@_njit
def run(
    steps,
    temperature_ms,
    pieces,
    num_pieces,
    modes,
    best,
    tables,
    cluster,
    row_share,
):
    """Runs `steps` proposals at one temperature; returns pieces in use and the best cost.

    Args:
        steps: Proposals.
        temperature_ms: Of the Metropolis rule, and the softness of the maximum.
        pieces: `[p, 3] int64`, changed in place.
        num_pieces: Pieces in use.
        modes: `[n] int64`, changed in place.
        best: Pieces, their number `[1]`, modes and cost `[1]` of the best state, changed in place.
        tables: Work `[n, u, 6]`, `[n, 6]`, `[n, 6]` and bytes (tuple) of pieces, row pieces and
            row pieces of a host.
        cluster: Memory `[w]`, devices per host, `comm` constants, fixed ms.
        row_share: Of proposals that put a table into rows or back.
    """
    unit_work, row_work, host_work, bytes_ = tables
    unit_bytes, row_bytes, host_bytes, table_dims = bytes_
    memory, per_host, comm, fixed_ms = cluster
    w = len(memory)
    work, used = np.zeros((w, 6)), np.zeros(w, np.int64)
    dims, counts = np.zeros(w), np.zeros(w, np.int64)
    state = (work, used, dims, counts)
    sum_up(pieces, num_pieces, modes, unit_work, row_work, host_work, bytes_, state, per_host)
    compute = np.empty(w)
    for d in range(w):
        compute[d] = device_ms(work[d], counts[d], fixed_ms)
    current = energy(compute, transfer_ms(dims, per_host, comm), temperature_ms)
    new_work, new_used = work.copy(), used.copy()
    new_dims, new_counts, new_compute = dims.copy(), counts.copy(), compute.copy()
    edits = np.empty((4, 4), np.int64)
    touched = np.empty(w, np.int64)
    best_pieces, best_count, best_modes, best_cost = best
    for _ in range(steps):
        num_edits, toggled, new_mode = 0, -1, IN_PIECES
        if row_share > 0.0 and np.random.random() < row_share:
            toggled = np.random.randint(len(modes))
            roll = np.random.randint(3)
            if modes[toggled] == IN_PIECES:
                new_mode = ON_ALL
                if roll == 0 and per_host < w and per_host > 1:
                    new_mode = np.random.randint(w // per_host)
            elif roll == 0 and per_host < w and per_host > 1:
                new_mode = np.random.randint(w // per_host)
            if new_mode == modes[toggled]:
                continue
            if new_mode == IN_PIECES and num_pieces + 1 > len(pieces):
                continue
        else:
            if num_pieces == 0:
                continue
            num_edits = _propose(pieces, num_pieces, w, compute.argmax(), edits)
            if num_edits == 0:
                continue
        # which devices change
        num_touched = 0
        if toggled >= 0:
            num_touched = w
            for d in range(w):
                touched[d] = d
        else:
            for e in range(num_edits):
                d = edits[e, 3]
                seen = False
                for k in range(num_touched):
                    seen = seen or touched[k] == d
                if not seen:
                    touched[num_touched] = d
                    num_touched += 1
        # their new sums
        for e in range(num_edits):
            sign = -1 if edits[e, 0] >= 0 else 1
            t, u, d = edits[e, 1], edits[e, 2], edits[e, 3]
            for k in range(6):
                new_work[d, k] += sign * unit_work[t, u, k]
            new_used[d] += sign * unit_bytes[t, u]
            new_dims[d] += sign * 4 * u
            new_counts[d] += sign
        target = -1
        if toggled >= 0:
            target = np.random.randint(w)
            _toggle(
                toggled, new_mode, target, pieces, num_pieces, modes, tables, per_host,
                new_work, new_used, new_dims, new_counts,
            )  # fmt: skip
        fits = True
        for k in range(num_touched):
            fits = fits and new_used[touched[k]] <= memory[touched[k]]
        accepted = False
        if fits:
            for k in range(num_touched):
                d = touched[k]
                new_compute[d] = device_ms(new_work[d], new_counts[d], fixed_ms)
            transfer = transfer_ms(new_dims, per_host, comm)
            proposed = energy(new_compute, transfer, temperature_ms)
            change = proposed - current
            accepted = change <= 0 or np.random.random() < math.exp(-change / temperature_ms)
        if not accepted:
            for k in range(num_touched):
                d = touched[k]
                new_work[d], new_used[d] = work[d], used[d]
                new_dims[d], new_counts[d] = dims[d], counts[d]
                new_compute[d] = compute[d]
            continue
        current = proposed
        for k in range(num_touched):
            d = touched[k]
            work[d], used[d] = new_work[d], new_used[d]
            dims[d], counts[d] = new_dims[d], new_counts[d]
            compute[d] = new_compute[d]
        if toggled >= 0:
            num_pieces = _apply_toggle(
                toggled, new_mode, target, pieces, num_pieces, modes, table_dims
            )
        else:
            num_pieces = _apply_pieces(pieces, num_pieces, edits, num_edits)
        cost = compute.max() + 2.0 * transfer
        if cost < best_cost[0] - 1e-12:
            best_cost[0] = cost
            best_count[0] = num_pieces
            best_pieces[:num_pieces] = pieces[:num_pieces]
            best_modes[:] = modes
    return num_pieces


@_njit
def _toggle(
    t, new_mode, target, pieces, num_pieces, modes, tables, per_host, work, used, dims, counts
):
    """Sums of the devices after a table changes from pieces to rows, to other rows, or back."""
    unit_work, row_work, host_work, bytes_ = tables
    unit_bytes, row_bytes, host_bytes, table_dims = bytes_
    if modes[t] == IN_PIECES:
        for i in range(num_pieces):
            if pieces[i, 0] == t:
                u, d = pieces[i, 1], pieces[i, 2]
                work[d] -= unit_work[t, u]
                used[d] -= unit_bytes[t, u]
                dims[d] -= 4 * u
                counts[d] -= 1
    for sign in (-1, 1):
        mode = modes[t] if sign < 0 else new_mode
        if mode == IN_PIECES:
            continue
        first, last = 0, len(dims)
        if mode >= 0:
            first, last = mode * per_host, (mode + 1) * per_host
        for d in range(first, last):
            for k in range(6):
                work[d, k] += sign * (row_work[t, k] if mode == ON_ALL else host_work[t, k])
            used[d] += sign * (row_bytes[t] if mode == ON_ALL else host_bytes[t])
            dims[d] += sign * table_dims[t]
            counts[d] += sign
    if new_mode == IN_PIECES:
        u = table_dims[t] // 4
        work[target] += unit_work[t, u]
        used[target] += unit_bytes[t, u]
        dims[target] += table_dims[t]
        counts[target] += 1


@_njit
def _apply_toggle(t, new_mode, target, pieces, num_pieces, modes, table_dims):
    """Carries a change of mode out on the list of pieces; returns its new length."""
    if modes[t] == IN_PIECES:
        kept = 0
        for i in range(num_pieces):
            if pieces[i, 0] != t:
                pieces[kept] = pieces[i]
                kept += 1
        num_pieces = kept
    modes[t] = new_mode
    if new_mode == IN_PIECES:
        pieces[num_pieces, 0] = t
        pieces[num_pieces, 1] = table_dims[t] // 4
        pieces[num_pieces, 2] = target
        num_pieces += 1
    return num_pieces
