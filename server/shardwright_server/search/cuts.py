"""Cuts: into what each lot is cut before anything is placed, from what the plan would cost at best.

A placement can level the devices, so that each carries an average share; but no device can carry
less than the largest unit that is put on it whole. So the cost of a way to cut is judged by

    max(compute of the average device, compute of the largest unit alone)
        + transfers at mean dims + all-reduce of copies

and the lot with the largest unit is cut, in the way that this judges best, as long as its unit
exceeds a share of the average device: in more column pieces, row-wise, over a host, or in copies.

Copies of tiny tables are judged together beforehand, those with the fewest rows first: a single one
need not be worth an all-reduce that all of them share.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from shardwright.domain import ShardingType
from shardwright_server.search.lots import Lot, LotBook, even_widths
from shardwright_server.search.pieces import Float64Array, IntArray


class Cut(NamedTuple):
    """How one lot is cut.

    Attributes:
        kinds: Catalog ids of its units, or of what it leaves on a device when spread.
        spread: How it is spread; None: it has units.
        devices: How many devices a spread lot reaches.
        all_reduce_bytes: Of its dense gradient, when it is data-parallel.
    """

    kinds: tuple[int, ...]
    spread: ShardingType | None = None
    devices: int = 1
    all_reduce_bytes: int = 0


_CURVE_POINTS, _LEAST_SHARE = 64, 1 / 16
"""Of the curve of transfers; it begins at this share of the dims there are uncut."""
_SETTLED = -np.inf
"""Computation alone of what is not to be cut further."""
_MOST_COPIED = 4096
"""Lots that are looked at; bounds memory."""

Cuts = list[Cut]
"""By lot."""


class _Options(NamedTuple):
    """Ways to cut one lot, `n`, and what it adds to all devices together in each.

    Attributes:
        cuts: The ways.
        encodings: `[n, e] float64`.
        dims: `[n] float64`.
        all_reduce_bytes: `[n] int64`.
        largest_ms: `[n] float64`, of its largest unit alone on a device.
    """

    cuts: Cuts
    encodings: Float64Array
    dims: Float64Array
    all_reduce_bytes: IntArray
    largest_ms: Float64Array

    def first(self, count: int) -> _Options:
        """So many of them."""
        return _Options(
            self.cuts[:count],
            self.encodings[:count],
            self.dims[:count],
            self.all_reduce_bytes[:count],
            self.largest_ms[:count],
        )


class Cutter:
    """Cuts lots, the largest unit first.

    Args:
        book: The lots.
        on_step: Called for each lot and cut; may raise to stop.

    Attributes:
        cuts: The cuts so far; in the beginning as few as constraints and memory allow.
    """

    def __init__(self, book: LotBook, on_step: Callable[[], None] = lambda: None) -> None:
        self._book = book
        self._on_step = on_step
        self._evaluator = book.evaluator
        self._options_of: dict[tuple[int, int], _Options] = {}
        self._num_allowed: list[int] = book.allowed.sum(axis=1).tolist()
        self._may_copy = any(ShardingType.DATA_PARALLEL in lot.spreads for lot in book.lots)
        self._coarsest = [self._least(lot) for lot in range(len(book.lots))]
        kinds = np.array([kind for cut in self._coarsest for kind in cut.kinds], dtype=np.int64)
        counts = np.array([len(cut.kinds) for cut in self._coarsest])
        copies = np.repeat([cut.devices for cut in self._coarsest], counts)
        starts = np.cumsum(counts) - counts
        catalog = book.catalog
        self._first_encoding: Float64Array = catalog.encodings[kinds].T.astype(np.float64) @ copies
        self._first_dim = float(catalog.num_columns[kinds] @ copies)
        self._first_alone_ms = np.maximum.reduceat(catalog.compute_ms[kinds], starts)
        self._first_bytes = np.maximum.reduceat(catalog.memory_bytes[kinds], starts)
        self._transfers = self._transfer_curve()
        self._shared_out, self._first_mean_ms = self._share_out(kinds)
        self._copied = self._best_copies()
        self.cuts: Cuts = list(self._coarsest)

    @property
    def copies(self) -> bool:
        """Whether it is worth while to copy some lots."""
        return bool(self._copied)

    def begin(self, *, columns_only: bool, copies: bool = False) -> None:
        """Begins anew from the coarsest cuts.

        Args:
            columns_only: Whether lots that can have units are never spread from now on.
            copies: Whether the lots of which that is worth while are copied, all the same.
        """
        self._columns_only = columns_only
        self.cuts = list(self._coarsest)
        self._total_encoding, self._total_dim = self._first_encoding, self._first_dim
        self._total_bytes = sum(cut.all_reduce_bytes for cut in self.cuts)
        self._alone_ms = self._first_alone_ms.copy()
        self._mean_ms, self._held_ms = self._first_mean_ms, 0.0
        if copies:
            self._begin_with_copies()
        self._alone_ms[[not self._can_grow(i) for i in range(len(self.cuts))]] = _SETTLED

    def _begin_with_copies(self) -> None:
        copied_encoding = np.zeros_like(self._total_encoding)
        for lot, cut in self._copied.items():
            self._total_encoding, self._total_dim, self._total_bytes = self._totals_with(lot, cut)
            self.cuts[lot], self._alone_ms[lot] = cut, 0.0
            copied_encoding += self._weight(cut)[0]
        average_ms = self._average_ms(
            np.array([self._total_encoding, self._total_encoding - copied_encoding])
        )
        self._mean_ms = float(average_ms[0])
        # what every device has beside any unit
        self._held_ms = max(0.0, float(average_ms[0] - average_ms[1]))

    def _best_copies(self) -> dict[int, Cut]:
        """So many lots, those with the fewest bytes to reduce for a column first, as is best."""
        copy = ShardingType.DATA_PARALLEL
        lots = [i for i, lot in enumerate(self._book.lots) if copy in lot.spreads]
        self._book.meet_spreads((lot, copy) for lot in lots)
        able = [(lot, self.spread(lot, copy)) for lot in lots if not self._coarsest[lot].spread]
        if not able:
            return {}
        able.sort(key=lambda way: way[1].all_reduce_bytes / self._book.lots[way[0]].columns)
        able = able[:_MOST_COPIED]
        kinds = [cut.kinds[0] for _, cut in able]
        bytes_held = self._book.catalog.memory_bytes[kinds].cumsum()
        able = able[: int((bytes_held <= self._evaluator.memory_bytes.min()).sum())]
        # from none to all of them
        encodings, dims = [self._first_encoding], [self._first_dim]
        num_bytes = [sum(cut.all_reduce_bytes for cut in self._coarsest)]
        for lot, cut in able:
            (now, dim_now), (copied, dim) = self._weight(self._coarsest[lot]), self._weight(cut)
            encodings.append(encodings[-1] + copied - now)
            dims.append(dims[-1] + dim - dim_now)
            num_bytes.append(num_bytes[-1] + cut.all_reduce_bytes)
        alone_ms = self._first_alone_ms.copy()
        alone_ms[[lot for lot, _ in able]] = 0.0
        largest_ms = [alone_ms.max()]  # of units, from all of them copied to none
        for lot, _ in reversed(able):
            largest_ms.append(max(largest_ms[-1], self._first_alone_ms[lot]))
        costs_ms = np.maximum(self._average_ms(np.array(encodings)), largest_ms[::-1])
        costs_ms += self._transfer_ms(np.array(dims))
        costs_ms += self._evaluator.all_reduce_ms(np.array(num_bytes))
        return dict(able[: int(costs_ms.argmin())])

    def _totals_with(self, lot: int, cut: Cut) -> tuple[Float64Array, float, int]:
        """Encoding, dims and bytes to reduce of all lots, with one cut in another way."""
        (now, dim_now), (encoding, dim) = self._weight(self.cuts[lot]), self._weight(cut)
        num_bytes = self._total_bytes - self.cuts[lot].all_reduce_bytes + cut.all_reduce_bytes
        return self._total_encoding - now + encoding, self._total_dim - dim_now + dim, num_bytes

    def _least(self, lot: int) -> Cut:
        """The coarsest cut that constraints and the memory of the largest allowed device permit."""
        self._on_step()
        book, facts = self._book, self._book.lots[lot]
        largest = int(self._evaluator.memory_bytes[book.allowed[lot]].max())
        parts = facts.least_units
        while facts.whole or facts.cut:
            widths = self._widths(lot, parts)
            if widths is None:
                break
            kinds = book.units((lot, width) for width in widths)
            if int(book.catalog.memory_bytes[kinds[0]]) <= largest:
                return Cut(tuple(kinds))
            parts *= 2
        for kind in facts.spreads:
            return self.spread(lot, kind)
        # too large for every device: packing says so
        return Cut((book.unit(lot, facts.columns),))

    def halvings(self, largest: int, dearest: int) -> list[Cuts]:
        """Coarsest cuts with 0, 1, ... halvings of largest units, and then as many of dearest ones.

        They are the states that NeuroShard's beam passes on straight ways. Where memory is tight,
        several large tables must be cut that cost next to nothing, beside some that cost much.

        Args:
            largest: How many numbers of halvings of the largest units.
            dearest: How many of the dearest, each after each of the former.
        """
        cuts = list(self._coarsest)
        bytes_of, ms_of = self._first_bytes.astype(np.float64), self._first_alone_ms.copy()
        found: list[Cuts] = []
        for _ in range(largest):
            branch, branch_ms_of = list(cuts), ms_of.copy()
            for _ in range(dearest):
                found.append(list(branch))
                self._halve(branch, branch_ms_of, self._largest_ms)
            lot = self._halve(cuts, bytes_of, self._largest_bytes)
            ms_of[lot] = self._largest_ms(cuts[lot])
        return found

    def spreadings(self, cuts: Cuts, most: int) -> list[Cuts]:
        """Cuts with the 1, 2, ... dearest lots spread, by their largest units, in their first way.

        Args:
            cuts: Ways to begin with.
            most: How many are spread at most.
        """
        able = [i for i, lot in enumerate(self._book.lots) if lot.spreads and not cuts[i].spread]
        able.sort(key=lambda lot: -self._largest_ms(cuts[lot]))
        found, now = [], list(cuts)
        for lot in able[:most]:
            now[lot] = self.spread(lot, self._book.lots[lot].spreads[0])
            found.append(list(now))
        return found

    def _halve(self, cuts: Cuts, heaviest: Float64Array, weigh: Callable[[Cut], float]) -> int:
        """Halves the lot with the heaviest unit; one that cannot be halved weighs nothing then."""
        lot = int(heaviest.argmax())
        cut = cuts[lot]
        widths = None if cut.spread else self._widths(lot, 2 * len(cut.kinds))
        if widths is None:
            heaviest[lot] = -1.0
        else:
            cuts[lot] = Cut(tuple(self._book.units((lot, width) for width in widths)))
            heaviest[lot] = weigh(cuts[lot])
        return lot

    def _largest_bytes(self, cut: Cut) -> float:
        return float(max(map(self._book.catalog.memory_bytes.item, cut.kinds)))

    def all_spread(self) -> Cuts:
        """Every lot that may be spread in its first way, the others as they are."""
        kinds = [lot.spreads for lot in self._book.lots]
        self._book.meet_spreads((lot, ways[0]) for lot, ways in enumerate(kinds) if ways)
        return [
            self.spread(lot, kinds[lot][0]) if kinds[lot] else cut
            for lot, cut in enumerate(self.cuts)
        ]

    def spread(self, lot: int, kind: ShardingType) -> Cut:
        """The cut of a spread lot."""
        found = self._book.spread(lot, kind)
        return Cut((found.kind,), kind, found.devices, found.all_reduce_bytes)

    def _widths(self, lot: int, parts: int) -> list[int] | None:
        facts = self._book.lots[lot]
        if parts == 1:
            return [facts.columns]
        if not facts.cut or facts.columns < parts * facts.min_width:
            return None
        widths = even_widths(facts.columns, parts)
        return widths if widths[-1] >= facts.min_width and parts <= self._num_allowed[lot] else None

    def _can_grow(self, lot: int) -> bool:
        facts: Lot = self._book.lots[lot]
        spreads = bool(facts.spreads) and not self._columns_only
        return self.cuts[lot].spread is None and (facts.cut or spreads)

    def _weight(self, cut: Cut) -> tuple[Float64Array, float]:
        """What a lot adds to all devices together: encoding and dims."""
        kinds = list(cut.kinds)
        encodings = self._book.catalog.encodings[kinds].sum(axis=0, dtype=np.float64)
        dims = float(self._book.catalog.num_columns[kinds].sum())
        return encodings * cut.devices, dims * cut.devices

    def _largest_ms(self, cut: Cut) -> float:
        return float(max(map(self._book.catalog.compute_ms.item, cut.kinds)))

    def refine(self, share: float, most_cuts: int) -> list[Cuts]:
        """Cuts on until no unit that can be cut exceeds `share` of the average; after `begin`.

        Returns:
            What it was cut into after each cut.
        """
        passed: list[Cuts] = []
        for _ in range(most_cuts):
            self._on_step()
            lot = int(self._alone_ms.argmax())
            if self._alone_ms[lot] + self._held_ms <= share * self._mean_ms:
                break
            if self._refine(lot, share):
                passed.append(list(self.cuts))
        return passed

    def _refine(self, lot: int, share: float) -> bool:
        """Takes the best finer cut of a lot, or settles that there is none; whether it cut."""
        options = self._options(lot)
        encodings = self._total_encoding - options.encodings[0] + options.encodings
        dims = self._total_dim - options.dims[0] + options.dims
        num_bytes = self._total_bytes - options.all_reduce_bytes[0] + options.all_reduce_bytes
        average_ms = self._average_ms(encodings)
        largest_ms = (options.largest_ms + self._held_ms) / share
        judged = np.maximum(average_ms, largest_ms) + self._transfer_ms(dims)
        if self._may_copy:
            judged += self._evaluator.all_reduce_ms(num_bytes)
        best = int(judged.argmin())
        self.cuts[lot] = options.cuts[best]
        settled = best == 0 or self.cuts[lot].spread is not None
        self._alone_ms[lot] = _SETTLED if settled else options.largest_ms[best]
        self._total_encoding, self._total_dim = encodings[best], float(dims[best])
        self._total_bytes = int(num_bytes[best])
        self._mean_ms = float(average_ms[best])
        return best > 0

    def _options(self, lot: int) -> _Options:
        """How a lot is cut now, and the next finer ways: in columns, then spread."""
        now = self.cuts[lot]
        key = lot, len(now.kinds)
        if key not in self._options_of:
            cuts = [now, *self._finer(lot)]
            kinds = np.array([kind for cut in cuts for kind in cut.kinds])
            starts = [0, *accumulate(len(cut.kinds) for cut in cuts[:-1])]
            devices = np.array([float(cut.devices) for cut in cuts])
            catalog = self._book.catalog
            encodings = catalog.encodings.take(kinds, axis=0).astype(np.float64)
            self._options_of[key] = _Options(
                cuts,
                np.add.reduceat(encodings, starts) * devices[:, None],
                np.add.reduceat(catalog.num_columns[kinds], starts) * devices,
                np.array([cut.all_reduce_bytes for cut in cuts]),
                np.maximum.reduceat(catalog.compute_ms[kinds], starts),
            )
        options, spreads = self._options_of[key], len(self._book.lots[lot].spreads)
        columns_only = self._columns_only and spreads
        return options.first(len(options.cuts) - spreads) if columns_only else options

    def _finer(self, lot: int) -> list[Cut]:
        found = []
        for parts in (len(self.cuts[lot].kinds) + 1, 2 * len(self.cuts[lot].kinds)):
            widths = self._widths(lot, parts)
            if widths is not None:
                found.append(Cut(tuple(self._book.units((lot, width) for width in widths))))
        return found + [self.spread(lot, kind) for kind in self._book.lots[lot].spreads]

    def _average_ms(self, total_encodings: Float64Array) -> Float64Array:
        shares = (total_encodings / self._book.num_devices).astype(np.float32)
        return self._shared_out * self._evaluator.compute_ms(np.maximum(shares, 0.0))

    def _share_out(self, kinds: IntArray) -> tuple[float, float]:
        """What devices compute on average over what the average device does; and on average, ms.

        Peaks add up to less on most devices than on the average one: the hottest units lie on few.
        So devices are dealt all peaks in turn, and an equal share of all else.
        """
        w, peaks = self._book.num_devices, self._evaluator.peak_channels
        average = self._first_encoding / w
        devices = np.repeat(average[None], w, axis=0)
        first = len(average) - peaks
        devices[:, first:] = 0.0
        dealt = self._book.catalog.encodings[kinds, first:].astype(np.float64)
        np.add.at(devices[:, first:], np.arange(len(kinds)) % w, dealt)
        rows = np.concatenate([devices, average[None]]).astype(np.float32)
        compute_ms = self._evaluator.compute_ms(rows)
        alone_ms = float(compute_ms[-1])
        shared_out = float(compute_ms[:-1].mean()) / alone_ms if alone_ms > 0.0 else 1.0
        return shared_out, shared_out * alone_ms

    def _transfer_ms(self, total_dims: Float64Array) -> Float64Array:
        """Forward and backward transfer where every device has the mean of dims."""
        return np.asarray(np.interp(total_dims, *self._transfers))

    def _transfer_curve(self) -> tuple[Float64Array, Float64Array]:
        """Totals of dims, from nearly all copied to all row-wise, and transfers at their means."""
        most = self._book.num_devices / _LEAST_SHARE
        shares = _LEAST_SHARE * most ** np.linspace(0.0, 1.0, _CURVE_POINTS)
        totals = shares * max(1.0, self._first_dim)
        means = totals / self._book.num_devices
        return totals, self._evaluator.transfer_ms(means, means, means).sum(axis=1)
