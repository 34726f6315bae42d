"""Dataset rows of samples and their times, in the schema of `shardwright_costmodel.dataset`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.measure.noise import median_ci_percent
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample, ComputeSample


@dataclass(frozen=True)
class Quantiles:
    """Of repeated times, ms.

    Attributes:
        median: Of the times.
        p10: Their 10th percentile.
        p90: Their 90th.
        ci_percent: Half width of the median's 95 % confidence interval, in percent of the median;
            None for fewer times than an interval needs, and for times without noise.
    """

    median: float
    p10: float
    p90: float
    ci_percent: float | None = None

    @classmethod
    def of(cls, times_ms: npt.ArrayLike) -> Quantiles:
        """The quantiles of at least one time."""
        p10, median, p90 = np.percentile(np.asarray(times_ms, dtype=np.float64), (10, 50, 90))
        ci_percent = median_ci_percent(times_ms)
        known = ci_percent if math.isfinite(ci_percent) else None
        return cls(float(median), float(p10), float(p90), known)

    @classmethod
    def exact(cls, time_ms: float) -> Quantiles:
        """Of a time without noise."""
        return cls(time_ms, time_ms, time_ms)


def compute_row(
    sample: ComputeSample,
    forward: Quantiles,
    backward: Quantiles,
    repetitions: int,
    placement: str | None = None,
    drift_percent: float | None = None,
) -> dict[str, Any]:
    """One row of `COMPUTE_SCHEMA`; None is what a roofline has to say."""
    return {
        **_operator(sample),
        "forward_ms": forward.median,
        "forward_ms_p10": forward.p10,
        "forward_ms_p90": forward.p90,
        "backward_ms": backward.median,
        "backward_ms_p10": backward.p10,
        "backward_ms_p90": backward.p90,
        "repetitions": repetitions,
        "placement": placement,
        "forward_ci_percent": forward.ci_percent,
        "backward_ci_percent": backward.ci_percent,
        "drift_percent": drift_percent,
    }


def infeasible_row(sample: ComputeSample, placement: str) -> dict[str, Any]:
    """One row of `COMPUTE_SCHEMA` for an operator that does not fit into memory: no times."""
    return {**_operator(sample), "feasible": False, "repetitions": 0, "placement": placement}


def _operator(sample: ComputeSample) -> dict[str, Any]:
    """The columns of `COMPUTE_SCHEMA` that describe the operator."""
    dtype = sample.weight_dtype.value
    tables = zip(
        sample.num_embeddings.tolist(),
        sample.embedding_dim.tolist(),
        sample.pooling_factor.tolist(),
        sample.reuse_histogram.astype(np.float32),
        [None] * len(sample) if sample.batch_size is None else sample.batch_size.tolist(),
        strict=True,
    )
    return {
        "global_batch_size": sample.global_batch_size,
        "optimizer": sample.optimizer.value,
        "tables": [
            {
                "num_embeddings": rows,
                "embedding_dim": dim,
                "pooling_factor": pooling,
                "reuse_histogram": reuse,
                "weight_dtype": dtype,
                "batch_size": batch_size,
            }
            for rows, dim, pooling, reuse, batch_size in tables
        ],
    }


def comm_row(
    sample: CommSample,
    forward_ms: npt.NDArray[np.float64],
    backward_ms: npt.NDArray[np.float64],
    repetitions: int,
    wait_ms: npt.NDArray[np.float64] | None = None,
    ci_percent: tuple[float | None, float | None] = (None, None),
    drift_percent: float | None = None,
) -> dict[str, Any]:
    """One row of `COMM_SCHEMA`; times are `[world_size]`, the rest is of the worst device."""
    return {
        "world_size": sample.world_size,
        "devices_per_host": sample.devices_per_host,
        "global_batch_size": sample.global_batch_size,
        "dims": sample.dims.tolist(),
        "start_skew_ms": sample.start_skew_ms.tolist(),
        "forward_ms": forward_ms.tolist(),
        "backward_ms": backward_ms.tolist(),
        "repetitions": repetitions,
        "wait_ms": None if wait_ms is None else wait_ms.tolist(),
        "forward_ci_percent": ci_percent[0],
        "backward_ci_percent": ci_percent[1],
        "drift_percent": drift_percent,
    }


def all_reduce_row(
    sample: AllReduceSample,
    time: Quantiles,
    repetitions: int,
    drift_percent: float | None = None,
) -> dict[str, Any]:
    """One row of `ALL_REDUCE_SCHEMA`."""
    return {
        "world_size": sample.world_size,
        "devices_per_host": sample.devices_per_host,
        "num_bytes": sample.num_bytes,
        "time_ms": time.median,
        "time_ms_p10": time.p10,
        "time_ms_p90": time.p90,
        "repetitions": repetitions,
        "ci_percent": time.ci_percent,
        "drift_percent": drift_percent,
    }
