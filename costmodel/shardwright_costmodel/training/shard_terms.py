"""Work and traffic of table shards, counted on paper, in torch; they become part of the graphs.

Every amount grows, or stays, with the lookups of a shard when everything else is held: its rows,
width, types and reuse histogram. What says how expensive the amounts are (`ShardTerms.context`)
does not depend on the lookups at all. So a model that weighs amounts with positive functions of the
context grows with the lookups by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shardwright.domain import REUSE_BINS

_FLOAT_BYTES = 4.0
"""Outputs and gradients of an embedding bag are fp32."""
_BURST_BYTES = 64.0
"""Memory is read in pieces of this size: bursts of GPU memory, cache lines of a CPU."""
_SECTOR_BYTES = 32.0
"""GPU caches are read in pieces of this size (CUDA C++ Best Practices Guide, coalesced access)."""
_WARP_COLUMNS = 128.0
"""Columns that one warp of fbgemm's kernels handles at once: 32 threads of 4 elements."""

STREAMS = REUSE_BINS + 1
"""Reads that a cache may serve: rows by reuse bin, and gradients of the bags."""

_MOST = 0.75 * 2.0 ** (REUSE_BINS - 1) + 0.5
"""Accesses that stand for the last reuse bin."""
REUSE_COUNTS = torch.tensor([1.0] + [0.75 * 2.0**i + 0.5 for i in range(1, REUSE_BINS)])
"""Accesses that stand for each reuse bin: the mean of the whole numbers in (2^(i-1), 2^i]."""

_REUSE_SUMS = torch.cat(
    [
        torch.ones(REUSE_BINS, REUSE_BINS).tril(),
        REUSE_COUNTS[:, None],
        (REUSE_COUNTS[:, None] / _MOST) ** 4,
    ],
    dim=1,
)
"""Reuse bins times this: for each bin, the share of rows in it and all hotter ones; the mean
accesses of a row; and the mean fourth power of the accesses, relative to the last bin's. A product
of matrices, because ONNX Runtime's sums of 17 numbers round differently with the row's place in
memory."""


@dataclass(frozen=True)
class ShardTerms:
    """What models see of `n` shards in one iteration.

    Attributes:
        amounts: `[n, 13]`, work and traffic, positive (`shard_amounts`).
        first_reads: `[n, 18]`, bytes that each stream reads for the first time in the batch.
        repeated_reads: `[n, 18]`, what it reads again: a cache that holds all it needs serves it.
        footprint: `[n, 18]`, bytes that a cache must hold for that: the stream's own and, of rows,
            all hotter ones.
        log_hottest: `[n, 1]`, logarithm of the accesses of the hottest row.
        context: `[n, 23]`, rows, width, types and reuse; not normalised.
    """

    amounts: Tensor
    first_reads: Tensor
    repeated_reads: Tensor
    footprint: Tensor
    log_hottest: Tensor
    context: Tensor


_WIDTHS = (13, STREAMS, STREAMS, STREAMS, 1, 6 + REUSE_BINS)


def pack(terms: ShardTerms) -> Tensor:
    """One tensor, `[n, 91]`: training computes it once."""
    parts = [terms.amounts, terms.first_reads, terms.repeated_reads]
    return torch.cat([*parts, terms.footprint, terms.log_hottest, terms.context], dim=1)


def unpack(packed: Tensor) -> ShardTerms:
    """The opposite of `pack`."""
    ends = [sum(_WIDTHS[: i + 1]) for i in range(len(_WIDTHS))]
    parts = [packed[:, end - width : end] for end, width in zip(ends, _WIDTHS, strict=True)]
    return ShardTerms(*parts)


def shard_inputs(shards: Tensor) -> Tensor:
    """`shard_terms`, packed: raw shards, `[n, len(SHARD_COLUMNS)]`, to `[n, 91]`."""
    return pack(shard_terms(shards))


def shard_terms(shards: Tensor) -> ShardTerms:
    """Takes raw shards apart, `[n, len(SHARD_COLUMNS)] float32`."""
    rows, columns, pooling, batch, weight_bytes, state_element, state_row = (
        shards[:, i : i + 1] for i in range(7)
    )
    reuse = shards[:, 7:].clamp(min=0.0)
    sums = reuse @ _REUSE_SUMS.to(shards)
    hot_share = sums[:, :REUSE_BINS]
    # every distinct row is accessed once at least, whatever else a row of padding says
    mean = sums[:, REUSE_BINS : REUSE_BINS + 1].clamp(min=1.0)
    fourth = sums[:, REUSE_BINS + 1 :].clamp(min=_MOST**-4)
    lookups = (pooling * batch).clamp(min=1e-6)
    distinct = _smooth_min(lookups / mean, rows)
    touched = _smooth_min(batch, lookups)
    row_bytes, gradient_bytes = _bursts(columns * weight_bytes), _bursts(columns * _FLOAT_BYTES)
    shares = reuse * REUSE_COUNTS.to(shards) / mean
    updated = row_bytes + _bursts(columns * state_element) + _bursts(state_row)
    warps = columns / _WARP_COLUMNS
    return ShardTerms(
        amounts=torch.cat(
            [
                torch.ones_like(rows),
                batch,
                lookups,
                distinct,
                batch * columns * _FLOAT_BYTES,
                lookups * columns,
                lookups * _sectors(columns * weight_bytes),
                lookups * _sectors(columns * _FLOAT_BYTES),
                distinct * row_bytes,
                distinct * 2.0 * updated,
                touched * gradient_bytes,
                lookups * warps.clamp(min=1.0),
                lookups * torch.ceil(warps),
            ],
            dim=1,
        ).clamp(min=1e-6),
        first_reads=torch.cat([distinct * reuse * row_bytes, touched * gradient_bytes], dim=1),
        repeated_reads=torch.cat(
            [
                (lookups * shares - distinct * reuse) * row_bytes,
                (lookups - touched) * gradient_bytes,
            ],
            dim=1,
        ).clamp(min=0.0),
        footprint=torch.cat([hot_share * distinct * row_bytes, touched * gradient_bytes], dim=1),
        log_hottest=_log_hottest(lookups, distinct, mean, fourth),
        context=torch.cat(
            [
                torch.log(rows.clamp(min=1e-6)),
                torch.log(columns.clamp(min=1e-6)),
                weight_bytes,
                state_element,
                state_row,
                torch.log(mean),
                shares,
            ],
            dim=1,
        ),
    )


def shard_amounts(shards: Tensor) -> Tensor:
    """Work and traffic of shards in one iteration.

    Args:
        shards: `[n, len(SHARD_COLUMNS)] float32`, raw.

    Returns:
        `[n, 13] float32`, positive: 1; bags; lookups; distinct rows; bytes of outputs; elements
        gathered; bytes gathered from a cache, by the forward pass and (gradients) by the backward
        pass; bytes of the distinct rows; of these and the optimizer's state, read and written; of
        gradients of bags with lookups; warp instructions of the lookups, where warps share columns
        beyond the first 128 and where they do not.
    """
    return shard_terms(shards).amounts


def _log_hottest(lookups: Tensor, distinct: Tensor, mean: Tensor, fourth: Tensor) -> Tensor:
    """Logarithm of the accesses of the hottest row: the fourth norm over the rows of the shard.

    A shard with fewer rows than its histogram suggests is hit that much harder; no row has more
    accesses than there are lookups.
    """
    excess = torch.log(lookups) - torch.log(distinct) - torch.log(mean)
    of_rows = 0.25 * torch.log(distinct * fourth) + math.log(_MOST) + excess
    most = torch.log(lookups)
    # in fourth powers, of_rows * most / (of_rows + most)
    apart = torch.exp(-4.0 * torch.abs(of_rows - most))
    return torch.minimum(of_rows, most) - 0.25 * torch.log1p(apart)


def _smooth_min(a: Tensor, b: Tensor) -> Tensor:
    """The least of two positive numbers, but for a fillet where they are equal."""
    ratio = torch.minimum(a, b) / torch.maximum(a, b).clamp(min=1e-30)
    square = ratio * ratio
    return torch.minimum(a, b) / torch.sqrt(torch.sqrt(1.0 + square * square))


def _bursts(num_bytes: Tensor) -> Tensor:
    return torch.ceil(num_bytes / _BURST_BYTES) * _BURST_BYTES


def _sectors(num_bytes: Tensor) -> Tensor:
    return torch.ceil(num_bytes / _SECTOR_BYTES) * _SECTOR_BYTES
