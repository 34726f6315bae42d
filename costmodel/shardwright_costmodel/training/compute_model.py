"""The torch models of a fused operator: encoder of shards, and head over the sum of encodings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shardwright_costmodel.features import SHARD_COLUMNS
from shardwright_costmodel.training.layers import (
    MonotoneMlp,
    Normalizer,
    bounded,
    correction_mlp,
)
from shardwright_costmodel.training.shard_terms import (
    STREAMS,
    ShardTerms,
    shard_terms,
    unpack,
)

ENCODING_SIZE = 32
WORK_CHANNELS = 28
"""Channels of an encoding that hold work; the others hold fourth powers of the hottest row."""
PEAK_POWER = 4.0
"""The sum of these powers, and its root, is close to the largest: that of the hottest table."""
_MAX_LOG = 30.0
_MAX_ENCODING = 1e13
_TINY = 1e-6
_LOG_STEP = 5.0
"""Positive parameters span many orders of magnitude: an optimizer's step moves them faster."""
_FACTOR_STEP = 0.1
"""What the network says moves this much slower: amounts come first."""
_LOG_SPREAD = 3.0
"""Roughly the standard deviation of logarithms of encodings, which come without normalisation."""
_FLOOR_MARGIN = 1.0 - 1e-5
"""Keeps a floor below its prediction whatever rounding in float32 does to the two."""
_TRUSTED = 4.0
"""Networks see inputs up to this many standard deviations; beyond, only the amounts go on."""
_CACHE_BYTES = (2.0**21, 2.0**24, 2.0**27)
"""What sizes of caches are learned from."""
_MAX_TIMES_CACHE = 1e8
_OUTPUTS, _NORMS, _NORM_SIZE, _FREE = 2, 2, 3, 8
"""Forward and backward; norms that make up each, linear functions in each norm; and linear
functions that only the network sees."""


class Caches(nn.Module):
    """Bytes that caches of learned sizes do not serve.

    A stream whose footprint fits is served but for its first touch; of a larger one, as much as
    fits: a share of 1 / (1 + (footprint / size)^4)^(1/4), for each of three sizes.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        sizes = torch.log(torch.tensor(_CACHE_BYTES))
        # rows and gradients compete with other data, and so need not see the same sizes
        self.log_size = nn.Parameter(sizes.repeat(2, 1) / _LOG_STEP)
        rows = torch.ones(STREAMS, 2)
        rows[:-1, 1], rows[-1, 0] = 0.0, 0.0
        self.register_buffer("sums", rows)

    def forward(self, terms: ShardTerms) -> Tensor:
        """`[n, 6]`: of rows and of gradients, for each size."""
        missed = []
        for i in range(len(_CACHE_BYTES)):
            inverse = self.sums @ torch.exp(-_LOG_STEP * self.log_size[:, i])
            times = (terms.footprint * inverse).clamp(max=_MAX_TIMES_CACHE)
            fourth = (times * times) * (times * times)
            root = torch.sqrt(torch.sqrt(1.0 + fourth))
            # 1 - 1 / root, without a difference of nearly equal numbers
            miss = fourth / (root * (root + 1.0) * (root * root + 1.0))
            missed.append((terms.first_reads + terms.repeated_reads * miss) @ self.sums)
        return torch.cat(missed, dim=1)


class ShardEncoder(nn.Module):
    """Encodes a shard as non-negative amounts, which add over the shards of a device.

    A channel of work is a sum of the shard's physical amounts (`shard_terms`), and of what caches
    miss, with positive weights; a peak channel is the fourth power of the accesses of the hottest
    row. Both times a factor that a network derives from what does not depend on the lookups. So no
    channel falls when a shard has more lookups.
    """

    mean_amounts: Tensor
    log_peak: Tensor

    def __init__(self) -> None:
        super().__init__()
        terms = shard_terms(torch.ones(1, len(SHARD_COLUMNS)))
        self.caches = Caches()
        num_amounts = terms.amounts.shape[1] + 2 * len(_CACHE_BYTES)
        self.register_buffer("mean_amounts", torch.ones(num_amounts))
        self.register_buffer("log_peak", torch.zeros(()))
        self.normalizer = Normalizer(terms.context.shape[1])
        weights = torch.randn(num_amounts, WORK_CHANNELS) - 4.0
        for channel in range(WORK_CHANNELS):
            weights[channel % num_amounts, channel] += 4.0
        self.weight = nn.Parameter(weights / _LOG_STEP)
        self.factor = correction_mlp(terms.context.shape[1], 64, 64, ENCODING_SIZE)

    @torch.no_grad()
    def initialize(self, inputs: Tensor) -> None:
        """Takes statistics of `shard_inputs`."""
        terms = unpack(inputs)
        self.normalizer.fit(terms.context)
        self.mean_amounts.copy_(self._amounts(terms).mean(dim=0))
        self.log_peak.copy_(terms.log_hottest.mean() + terms.log_hottest.std(correction=0))

    def encode(self, inputs: Tensor) -> Tensor:
        """Encodes `shard_inputs`, `[n, 91]`, to `[n, ENCODING_SIZE]`."""
        return self._encode(unpack(inputs))

    def forward(self, shards: Tensor) -> Tensor:
        """Encodes raw shards, `[n, len(SHARD_COLUMNS)]`, to `[n, ENCODING_SIZE]`."""
        return self._encode(shard_terms(shards))

    def _encode(self, terms: ShardTerms) -> Tensor:
        context = self.normalizer(terms.context).clamp(-_TRUSTED, _TRUSTED)
        log_factor = bounded(_FACTOR_STEP * self.factor(context))
        amounts = self._amounts(terms) / self.mean_amounts
        work = amounts @ torch.exp(_LOG_STEP * self.weight)
        work = (work * torch.exp(log_factor[:, :WORK_CHANNELS])).clamp(max=_MAX_ENCODING)
        peak = PEAK_POWER * (terms.log_hottest - self.log_peak) + log_factor[:, WORK_CHANNELS:]
        return torch.cat([work, torch.exp(peak.clamp(-2.0 * _MAX_LOG, 2.0 * _MAX_LOG))], dim=1)

    def _amounts(self, terms: ShardTerms) -> Tensor:
        return torch.cat([terms.amounts, self.caches(terms)], dim=1)


class ComputeHead(nn.Module):
    """Forward and backward milliseconds of a device, from the sum of its shards' encodings.

    milliseconds = additive + sqrt(joint^2 + peak^2 + extra^2)
    floor = additive + sqrt(joint^2 + peak^2)

    `additive` is an affine function of the work with positive coefficients, `joint` a sum of norms
    of such functions without constants (work on resources that overlap), both convex. `peak` is the
    fourth root of a sum of peak channels: the hottest row of any table, which the device waits for.
    `extra` is a network's. All are nondecreasing in every channel and at least 0: so the
    milliseconds and the floor are nondecreasing too, and the floor, never above them, is convex in
    the channels of work while those of peaks are held.
    """

    groups: Tensor
    norms: Tensor
    sums: Tensor
    is_peak: Tensor

    def __init__(self) -> None:
        super().__init__()
        norms, members = _OUTPUTS * _NORMS, _OUTPUTS * _NORMS * _NORM_SIZE
        width = members + _OUTPUTS + _FREE
        weights = torch.randn(ENCODING_SIZE, width) - 5.0
        self.work = nn.Parameter(weights / _LOG_STEP)
        self.peak = nn.Parameter(torch.full((ENCODING_SIZE, _OUTPUTS), -5.0 / _LOG_STEP))
        self.constant = nn.Parameter(torch.full((_OUTPUTS,), -3.0 / _LOG_STEP))
        self.extra = MonotoneMlp(width, 16, 16, _OUTPUTS)
        is_peak = torch.arange(ENCODING_SIZE)[:, None] >= WORK_CHANNELS
        self.register_buffer("is_peak", is_peak.float())
        # products with these pick and add columns: cheaper in ONNX Runtime than slices
        per_norm = torch.eye(norms).repeat_interleave(_NORM_SIZE, dim=0)
        groups = torch.cat([per_norm, torch.zeros(width - members, norms)])
        self.register_buffer("groups", groups)
        self.register_buffer("norms", torch.eye(_OUTPUTS).repeat_interleave(_NORMS, dim=0))
        self.register_buffer("sums", torch.eye(width)[:, members : members + _OUTPUTS])

    @torch.no_grad()
    def scale(self, log_factor: Tensor) -> None:
        """Multiplies the outputs, `[2]`, by exp of a factor, but for what the network changes."""
        of_members = log_factor.repeat_interleave(_NORMS * _NORM_SIZE)
        factors = torch.cat([of_members, log_factor, torch.zeros(_FREE)])
        self.work.add_(factors / _LOG_STEP)
        self.peak.add_(PEAK_POWER * log_factor / _LOG_STEP)
        self.constant.add_(log_factor / _LOG_STEP)

    def parts(self, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds, and the part that is convex in all channels, `[m, 2]` each.

        Args:
            encodings: `[m, ENCODING_SIZE]`, of devices that hold something.
        """
        additive, joint, peak_squared, extra, _ = self._parts(encodings)
        return additive + torch.sqrt(joint * joint + peak_squared + extra * extra), additive + joint

    def forward(self, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds, exactly 0 for a row of zeros, which is no shard, and their floor.

        `[m, 2]` each. The floor of a row of zeros is that of a device which holds next to nothing.
        """
        additive, joint, peak_squared, extra, proportional = self._parts(encodings)
        known = joint * joint + peak_squared
        ms = additive + torch.sqrt(known + extra * extra)
        # 1 as soon as there is any work, and much faster in ONNX Runtime than a condition
        any_work = (proportional * 1e30).clamp(max=1.0)
        return ms * any_work, (additive + torch.sqrt(known)) * _FLOOR_MARGIN

    def _parts(self, encodings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`additive`, `joint`, `peak` squared, `extra`; and `additive` without its constant."""
        linear = encodings @ (torch.exp(_LOG_STEP * self.work) * (1.0 - self.is_peak))
        squares = torch.sqrt((linear * linear) @ self.groups + _TINY * _TINY)
        joint, proportional = squares @ self.norms, linear @ self.sums
        additive = proportional + torch.exp(_LOG_STEP * self.constant)
        extra = torch.exp(self.extra(torch.log(linear + _TINY) / _LOG_SPREAD).clamp(max=_MAX_LOG))
        peaks = encodings @ (torch.exp(_LOG_STEP * self.peak) * self.is_peak)
        # the square of the fourth root
        peak_squared = torch.sqrt(peaks + _TINY**4)
        return additive, joint, peak_squared, extra, proportional
