"""GPU profiles: every constant with its published source.

Sources, cited in brackets below:
  [H100]     NVIDIA H100 Tensor Core GPU Architecture whitepaper and data sheet (SXM5 80 GB).
  [A100]     NVIDIA A100 Tensor Core GPU Architecture whitepaper and data sheet (SXM4 80 GB).
  [V100]     NVIDIA Tesla V100 GPU Architecture whitepaper (SXM2 32 GB).
  [MLPERF]   github.com/owensgroup/ml_perf_model, measured parameters of A100 and V100:
             DRAM 1391.1 and 816.95 GB/s, L2 2270.9 and 2847.5 GB/s; and its kernel times on V100.
  [TR2365]   github.com/meta-pytorch/torchrec, issue 2365: P90 of fbgemm forward times, GPU unnamed.
  [FB5749]   github.com/pytorch/FBGEMM, issue 5749: an operator with almost no work takes 22 us
             forward and 108 us backward (device time, B200).
  [ONESWEEP] Adinets and Merrill 2022, arXiv 2206.01784: 29.4e9 32-bit keys/s sorted on an A100.
  [NT149], [NT212] github.com/NVIDIA/nccl-tests, issues 149 and 212: about 230-240 GB/s (A100) and
             370 GB/s (H100) all-to-all bus bandwidth inside a host.
  [NCCL2169] github.com/NVIDIA/nccl, issue 2169: 334.9 GB/s, all-to-all of 524 MB on 4 H100.
  [NDR]      published nccl-tests of 16 GPUs on two nodes with 8 NDR400 NICs each (H100 class;
             author unnamed, trust it moderately): 89.87 GB/s all-to-all bus bandwidth.
  [B200]     nccl-tests on HGX B200 (Vultr proof of concept, 2026): 11-13 us for the smallest
             all-to-all on 8 GPUs of a host, 38-42 us on 16 GPUs of two hosts.
  [NIC]      NVIDIA: NDR400 46-49 GB/s a port; 2.7-2.8 us latency a message.

`fitted` marks what no source states; `README.md` of this folder's distribution says to what.
"""

from __future__ import annotations

from dataclasses import dataclass

from shardwright_benchmark_worker.errors import ProfileError

_DRAM_EFFICIENCY = 0.90
"""Achieved over peak DRAM bandwidth [MLPERF]: 1391.1 / 1555 (A100 40 GB), 816.95 / 900 (V100)."""

_SORT_EFFICIENCY = 0.68
"""Of peak DRAM bandwidth: 29.4e9 keys/s x 36 bytes moved a key / 1555e9 [ONESWEEP]."""

_ISSUE_CYCLES = 5.6
"""SM cycles a forward lookup of up to 128 columns keeps busy; fitted to the narrow rows of [TR2365]
(35.7e9 lookups/s at dim 16 when they are read as an H100's)."""

_FLOOR_CYCLES = 7.5e7
_HOT_ROW_CYCLES = 7.8e3
"""SM cycles behind `backward_floor_ms` and `hot_row_ns` (0.29 ms and 30 ns on an H100); fitted to
the fusion medians that NeuroShard's published networks predict at batch 65536 (fused cost over the
sum of single-table costs: 0.75 for 2 tables, 0.57 for 5, 0.49 for 8), scaled like issue."""


@dataclass(frozen=True)
class GpuProfile:
    """What the roofline needs to know about one GPU and its links.

    Attributes:
        hardware: Name of the profile.
        dram_gb_per_s: Achievable bandwidth of device memory.
        sort_gb_per_s: Memory traffic of a radix sort.
        l2_gb_per_s: Achievable bandwidth of the L2 cache.
        l2_bytes: Size of the L2 cache.
        num_sms: Streaming multiprocessors.
        clock_ghz: Their boost clock.
        forward_launch_ms: An operator without work.
        backward_launch_ms: An operator without work: some fifteen kernels.
        nvlink_gb_per_s: All-to-all bandwidth of a GPU inside its host, per direction.
        nic_gb_per_s: All-to-all bandwidth of a GPU's share of the host's NICs, per direction.
        host_latency_ms: Of an all-to-all inside one host.
        network_latency_ms: Added once when there is more than one host.
        peer_latency_ms: Added for every peer on another host.
    """

    hardware: str
    dram_gb_per_s: float
    sort_gb_per_s: float
    l2_gb_per_s: float
    l2_bytes: float
    num_sms: int
    clock_ghz: float
    forward_launch_ms: float
    backward_launch_ms: float
    nvlink_gb_per_s: float
    nic_gb_per_s: float
    host_latency_ms: float
    network_latency_ms: float
    peer_latency_ms: float

    @property
    def forward_issue_ns(self) -> float:
        """Per lookup of up to 128 columns, all SMs together."""
        return _ISSUE_CYCLES / (self.num_sms * self.clock_ghz)

    @property
    def backward_floor_ms(self) -> float:
        """What a lone operator cannot hide beside its launches."""
        return _FLOOR_CYCLES / (self.num_sms * self.clock_ghz) * 1e-6

    @property
    def hot_row_ns(self) -> float:
        """Per access of the hottest row in the backward pass."""
        return _HOT_ROW_CYCLES / (self.num_sms * self.clock_ghz)


PROFILES: dict[str, GpuProfile] = {
    profile.hardware: profile
    for profile in (
        GpuProfile(
            hardware="nvidia-h100-sxm5-80gb",
            dram_gb_per_s=3352 * _DRAM_EFFICIENCY,  # [H100] peak
            sort_gb_per_s=3352 * _SORT_EFFICIENCY,
            l2_gb_per_s=5000.0,  # fitted to [TR2365], dims 32 .. 128, read as an H100's
            l2_bytes=50 * 2**20,  # [H100]
            num_sms=132,  # [H100]
            clock_ghz=1.98,  # [H100]: 66.9 TFLOPS fp32 = 132 x 256 x 1.98e9
            forward_launch_ms=0.022,  # [FB5749]
            backward_launch_ms=0.108,  # [FB5749]
            nvlink_gb_per_s=350.0,  # between [NCCL2169] and [NT212]
            nic_gb_per_s=47.9,  # [NDR] 89.87 x 8 / 15: 8 of the 15 peers are remote; [NIC] agrees
            host_latency_ms=0.0120,  # [B200]
            network_latency_ms=0.0066,  # [B200] 40.5 us less host and 8 peers
            peer_latency_ms=0.00275,  # [NIC]
        ),
        GpuProfile(
            hardware="nvidia-a100-sxm4-80gb",
            dram_gb_per_s=2039 * _DRAM_EFFICIENCY,  # [A100] peak
            sort_gb_per_s=2039 * _SORT_EFFICIENCY,
            l2_gb_per_s=2270.9,  # [MLPERF]
            l2_bytes=40 * 2**20,  # [A100]
            num_sms=108,  # [A100]
            clock_ghz=1.41,  # [A100]
            forward_launch_ms=0.022,  # [FB5749]
            backward_launch_ms=0.108,  # [FB5749]
            nvlink_gb_per_s=235.0,  # [NT149]
            nic_gb_per_s=47.9 / 2,  # HDR200 has half the line rate of NDR400, at [NDR]'s efficiency
            host_latency_ms=0.0120,  # [B200]: no newer all-to-all floor of an A100 is published
            network_latency_ms=0.0066,  # [B200]
            peer_latency_ms=0.00275,  # [NIC]
        ),
        GpuProfile(
            hardware="nvidia-v100-sxm2-32gb",
            dram_gb_per_s=816.95,  # [MLPERF]
            sort_gb_per_s=900 * _SORT_EFFICIENCY,  # [V100] peak
            l2_gb_per_s=2847.5,  # [MLPERF]
            l2_bytes=6 * 2**20,  # [V100]
            num_sms=80,  # [V100]
            clock_ghz=1.53,  # [V100]
            forward_launch_ms=0.022,  # [FB5749]
            backward_launch_ms=0.108,  # [FB5749]
            nvlink_gb_per_s=56.7,  # [MLPERF] four V100 of a DGX-1
            nic_gb_per_s=6.25 * 0.958,  # 4 EDR100 for 8 GPUs of a DGX-1, at [NDR]'s efficiency
            host_latency_ms=0.090,  # [MLPERF] floor on four V100
            network_latency_ms=0.0066,  # [B200]
            peer_latency_ms=0.00275,  # [NIC]
        ),
    )
}


def get_profile(name: str) -> GpuProfile:
    """The profile of a name.

    Raises:
        ProfileError: Listing the profiles there are.
    """
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise ProfileError(f"no roofline profile named {name!r}; there are: {known}") from None
