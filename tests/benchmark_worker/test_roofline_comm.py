"""All-to-all times against published nccl-tests and the rules they follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright_benchmark_worker.roofline import PROFILES, GpuProfile, comm_times, get_profile
from shardwright_benchmark_worker.sampling import CommLimits, CommSample, draw_comm_sample

H100 = get_profile("nvidia-h100-sxm5-80gb")
A100 = get_profile("nvidia-a100-sxm4-80gb")


def all_to_all(
    dims: list[int], devices_per_host: int, batch: int = 65_536, skew_ms: list[float] | None = None
) -> CommSample:
    return CommSample(
        index=0,
        devices_per_host=devices_per_host,
        global_batch_size=batch,
        dims=np.array(dims),
        start_skew_ms=np.array(skew_ms or [0.0] * len(dims)),
    )


def nccl_test_ms(profile: GpuProfile, gpus: int, gpus_per_host: int, num_bytes: float) -> float:
    """Time of nccl-tests' alltoall, whose size is the send buffer of a GPU."""
    batch = 1024 * gpus
    sample = all_to_all([1] * gpus, gpus_per_host, batch)
    exact = replace(sample, dims=np.full(gpus, num_bytes / 4 / batch))
    return float(comm_times(profile, exact).backward_ms[0])


def bus_bandwidth(profile: GpuProfile, gpus: int, gpus_per_host: int) -> float:
    num_bytes = 2.0**33
    return (
        num_bytes * (gpus - 1) / gpus / nccl_test_ms(profile, gpus, gpus_per_host, num_bytes) / 1e6
    )


@pytest.mark.parametrize(
    ("profile", "gpus", "gpus_per_host", "published_gb_per_s"),
    [
        (H100, 8, 8, 370.0),  # NVIDIA/nccl-tests issue 212
        (A100, 8, 8, 230.0),  # NVIDIA/nccl-tests issue 149
        (H100, 16, 8, 89.87),  # 8 NDR400 a node, two nodes, H100 class
    ],
)
def test_bus_bandwidth_of_large_transfers(
    profile: GpuProfile, gpus: int, gpus_per_host: int, published_gb_per_s: float
) -> None:
    modelled = bus_bandwidth(profile, gpus, gpus_per_host)
    assert modelled == pytest.approx(published_gb_per_s, rel=0.10)


def test_h100_transfer_of_a_published_size() -> None:
    # NVIDIA/nccl issue 2169: 4 H100, 524288000 bytes, 1174.14 us
    assert nccl_test_ms(H100, 4, 4, 524_288_000) * 1e3 == pytest.approx(1174, rel=0.10)


def test_latency_of_empty_transfers() -> None:
    # nccl-tests on HGX B200, 2026: 128 bytes on 8 GPUs 11.0 us, 256 bytes on 16 GPUs 40.5 us
    assert nccl_test_ms(H100, 8, 8, 128) * 1e3 == pytest.approx(11.0, rel=0.15)
    assert nccl_test_ms(H100, 16, 8, 256) * 1e3 == pytest.approx(40.5, rel=0.10)


# nccl-tests alltoall on HGX B200 (Vultr proof of concept, 2026-05-18): bytes and microseconds
B200_ONE_HOST = {
    128: 11.0,
    4096: 11.25,
    65536: 12.44,
    1048576: 18.09,
    4194304: 38.84,
    16777216: 51.3,
    67108864: 135.03,
    268435456: 438.8,
    1073741824: 1553,
    4294967296: 5704,
    17179869184: 22348,
}
B200_TWO_HOSTS = {
    256: 40.5,
    65536: 39.6,
    1048576: 78.4,
    4194304: 158.1,
    16777216: 445.5,
    67108864: 1567,
    268435456: 6022,
    1073741824: 23807,
    17179869184: 379707,
}


def test_latency_plus_bytes_over_bandwidth_follows_a_whole_published_curve() -> None:
    # the form, with B200's own bandwidths: how far does a straight line carry?
    b200 = replace(H100, nvlink_gb_per_s=600.0, nic_gb_per_s=42.4 * 8 / 15)
    for gpus, curve in ((8, B200_ONE_HOST), (16, B200_TWO_HOSTS)):
        modelled_us = [nccl_test_ms(b200, gpus, 8, num_bytes) * 1e3 for num_bytes in curve]
        errors = np.abs(np.array(modelled_us) / np.array(list(curve.values())) - 1)
        assert errors.mean() < 0.20, gpus
        assert errors.max() < 0.60, gpus


# --- rules ---------------------------------------------------------------------------------------


def test_the_busiest_device_decides() -> None:
    balanced = comm_times(H100, all_to_all([512] * 8, 8)).backward_ms
    uneven = comm_times(H100, all_to_all([4096] + [0] * 7, 8)).backward_ms
    assert uneven.max() > 6 * balanced.max()
    # the others have nothing to send, and still wait for the one that sends to all
    assert np.ptp(uneven) == 0


def test_leaving_the_host_is_slower() -> None:
    inside = comm_times(H100, all_to_all([512] * 8, 8)).backward_ms[0]
    across = comm_times(H100, all_to_all([512] * 8, 4)).backward_ms[0]
    assert across > 3 * inside


def test_waiting_is_the_distance_to_the_last_start() -> None:
    skew_ms = [0.0, 3.0, 1.5, 0.25]
    sample = all_to_all([100, 200, 300, 400], 4, skew_ms=skew_ms)
    times = comm_times(H100, sample)
    np.testing.assert_allclose(times.forward_ms - times.backward_ms, 3.0 - np.array(skew_ms))


@settings(deadline=None, max_examples=80)
@given(
    profile=st.sampled_from(sorted(PROFILES)).map(get_profile),
    index=st.integers(0, 10_000),
    which=st.integers(0, 127),
)
def test_times_are_positive_and_rise_with_dims_and_batch(
    profile: GpuProfile, index: int, which: int
) -> None:
    sample = draw_comm_sample(CommLimits(), 0, index)
    before = comm_times(profile, sample)
    assert np.isfinite(before.forward_ms).all() and (before.backward_ms > 0).all()
    assert before.forward_ms.shape == before.backward_ms.shape == (sample.world_size,)
    dims = sample.dims.copy()
    dims[which % len(dims)] += 64
    for larger in (
        replace(sample, dims=dims),
        replace(sample, global_batch_size=sample.global_batch_size * 2),
    ):
        after = comm_times(profile, larger)
        assert (after.forward_ms >= before.forward_ms).all()
        assert (after.backward_ms >= before.backward_ms).all()


@settings(deadline=None, max_examples=40)
@given(index=st.integers(0, 10_000), seed=st.integers(0, 1000))
def test_devices_of_a_host_and_whole_hosts_may_be_exchanged(index: int, seed: int) -> None:
    sample = draw_comm_sample(CommLimits(), 0, index)
    rng = np.random.default_rng(seed)
    hosts = sample.dims.reshape(-1, sample.devices_per_host)
    shuffled = rng.permuted(hosts[rng.permutation(len(hosts))], axis=1).ravel()
    np.testing.assert_allclose(
        comm_times(H100, sample).backward_ms,
        comm_times(H100, replace(sample, dims=shuffled)).backward_ms,
    )
