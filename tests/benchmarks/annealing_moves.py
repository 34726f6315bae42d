"""Moves of the annealing: what is proposed, what it changes on the devices, and carrying it out.

Compiled by numba; arrays as in `annealing_kernel`. An edit takes a piece away or puts one down.
"""

from __future__ import annotations

import numba
import numpy as np

IN_PIECES = -2
ON_ALL = -1
"""Modes of a table; one of 0 .. hosts - 1: in rows over the devices of that host."""

_njit = numba.njit(cache=True, fastmath=False)


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
def propose(pieces, num_pieces, w, slowest, edits):
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
def propose_mode(modes, w, per_host):
    """A random table and another mode for it, or the same where the draw says so."""
    t = np.random.randint(len(modes))
    hosts = w // per_host
    if hosts > 1 and per_host > 1 and np.random.randint(3) == 0:
        return t, np.random.randint(hosts)
    return t, ON_ALL if modes[t] == IN_PIECES else IN_PIECES


@_njit
def apply_pieces(pieces, num_pieces, edits, num_edits):
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
def edit_sums(edits, num_edits, tables, trial, touched):
    """Adds edits to the devices' sums; returns how many devices it wrote into `touched`."""
    unit_work, _, _, bytes_ = tables
    work, used, dims, counts, _ = trial
    num_touched = 0
    for e in range(num_edits):
        sign = -1 if edits[e, 0] >= 0 else 1
        t, u, d = edits[e, 1], edits[e, 2], edits[e, 3]
        for k in range(6):
            work[d, k] += sign * unit_work[t, u, k]
        used[d] += sign * bytes_[0][t, u]
        dims[d] += sign * 4 * u
        counts[d] += sign
        seen = False
        for k in range(num_touched):
            seen = seen or touched[k] == d
        if not seen:
            touched[num_touched] = d
            num_touched += 1
    return num_touched


@_njit
def toggle(t, new_mode, target, pieces, num_pieces, modes, tables, per_host, trial):
    """Sums of the devices after a table changes from pieces to rows, to other rows, or back."""
    unit_work, row_work, host_work, bytes_ = tables
    unit_bytes, row_bytes, host_bytes, table_dims = bytes_
    work, used, dims, counts, _ = trial
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
def apply_toggle(t, new_mode, target, pieces, num_pieces, modes, table_dims):
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
