"""Dataset rows of samples and their times, in the schema of `shardwright_costmodel.dataset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample, ComputeSample


@dataclass(frozen=True)
class Quantiles:
    """Of repeated times, ms."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, times_ms: npt.ArrayLike) -> Quantiles:
        """The quantiles of at least one time."""
        p10, median, p90 = np.percentile(np.asarray(times_ms, dtype=np.float64), (10, 50, 90))
        return cls(float(median), float(p10), float(p90))

    @classmethod
    def exact(cls, time_ms: float) -> Quantiles:
        """Of a time without noise."""
        return cls(time_ms, time_ms, time_ms)


def compute_row(
    sample: ComputeSample, forward: Quantiles, backward: Quantiles, repetitions: int
) -> dict[str, Any]:
    """One row of `COMPUTE_SCHEMA`."""
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
        "forward_ms": forward.median,
        "forward_ms_p10": forward.p10,
        "forward_ms_p90": forward.p90,
        "backward_ms": backward.median,
        "backward_ms_p10": backward.p10,
        "backward_ms_p90": backward.p90,
        "repetitions": repetitions,
    }


def comm_row(
    sample: CommSample,
    forward_ms: npt.NDArray[np.float64],
    backward_ms: npt.NDArray[np.float64],
    repetitions: int,
) -> dict[str, Any]:
    """One row of `COMM_SCHEMA`; times are `[world_size]`."""
    return {
        "world_size": sample.world_size,
        "devices_per_host": sample.devices_per_host,
        "global_batch_size": sample.global_batch_size,
        "dims": sample.dims.tolist(),
        "start_skew_ms": sample.start_skew_ms.tolist(),
        "forward_ms": forward_ms.tolist(),
        "backward_ms": backward_ms.tolist(),
        "repetitions": repetitions,
    }


def all_reduce_row(sample: AllReduceSample, time: Quantiles, repetitions: int) -> dict[str, Any]:
    """One row of `ALL_REDUCE_SCHEMA`."""
    return {
        "world_size": sample.world_size,
        "devices_per_host": sample.devices_per_host,
        "num_bytes": sample.num_bytes,
        "time_ms": time.median,
        "time_ms_p10": time.p10,
        "time_ms_p90": time.p90,
        "repetitions": repetitions,
    }
