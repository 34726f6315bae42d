"""The modelled all-reduce: known limits, and the facts that hold for any."""

from __future__ import annotations

import pytest

from shardwright_benchmark_worker.roofline import all_reduce_ms, comm_times, get_profile
from shardwright_benchmark_worker.sampling import AllReduceSample, CommLimits, draw_comm_sample

H100 = get_profile("nvidia-h100-sxm5-80gb")


def ms(world_size: int, devices_per_host: int, num_bytes: int) -> float:
    return all_reduce_ms(H100, AllReduceSample(0, world_size, devices_per_host, num_bytes))


def test_a_large_one_inside_a_host_runs_at_the_links_bandwidth() -> None:
    """Bus bandwidth as nccl-tests defines it: 2 (n - 1) / n of the bytes over the time."""
    num_bytes = 1 << 30
    bus_gb_per_s = 2 * 7 / 8 * num_bytes / ms(8, 8, num_bytes) / 1e6
    assert bus_gb_per_s == pytest.approx(H100.nvlink_gb_per_s, rel=0.01)


def test_a_large_one_among_hosts_runs_at_the_nics_bandwidth() -> None:
    num_bytes = 1 << 30
    sent = 2 * 15 / 16 * num_bytes / 8
    assert sent / ms(128, 8, num_bytes) / 1e6 == pytest.approx(H100.nic_gb_per_s, rel=0.2)


def test_a_small_one_costs_latency_alone() -> None:
    assert ms(8, 8, 4) == pytest.approx(H100.host_latency_ms, rel=1e-4)
    two_hosts = H100.host_latency_ms + H100.network_latency_ms + 2 * H100.peer_latency_ms
    assert ms(16, 8, 4) == pytest.approx(two_hosts, rel=1e-3)


def test_latency_grows_with_the_logarithm_of_the_hosts() -> None:
    small = [ms(8 * hosts, 8, 1024) for hosts in (2, 4, 8, 16)]
    steps = [later - earlier for earlier, later in zip(small, small[1:], strict=False)]
    assert steps == pytest.approx([2 * H100.peer_latency_ms] * 3, rel=0.01)


def test_time_grows_with_bytes_and_with_hosts() -> None:
    sizes = [4 * 10**k for k in range(9)]
    for world_size in (2, 8, 16, 24, 128):
        times = [ms(world_size, min(world_size, 8), size) for size in sizes]
        assert times == sorted(times)
    for size in sizes:
        times = [ms(8 * hosts, 8, size) for hosts in (1, 2, 4, 8, 16)]
        assert times == sorted(times)


def test_hosts_of_one_device_use_their_nics() -> None:
    assert ms(4, 1, 1 << 26) > 3 * ms(4, 4, 1 << 26)


def test_the_scale_is_that_of_an_all_to_all_of_the_same_bytes() -> None:
    """Both move their bytes over the same links: an all-reduce some two times."""
    sample = draw_comm_sample(CommLimits(max_skew_ms=0).on(8, 8), 0, 3)
    sent = int(4 * sample.global_batch_size * sample.dims.max() * 7 / 8)
    exchange_ms = float(comm_times(H100, sample).backward_ms[0])
    assert 1.0 < ms(8, 8, sent) / exchange_ms < 2.5
