"""From one's own benchmark numbers in CSV files to a cost model that answers.

    pip install 'shardwright-costmodel[cpu,train]' pandas
    python bring_your_own.py FOLDER

Your own tool wrote the CSV files; here SYNTHETIC ones stand in for them, made up by a formula and
measured on no machine. `convert` is what you would keep.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from shardwright.domain import EmbeddingTable, Optimizer, WeightDtype
from shardwright_costmodel.dataset import Kind, PartMetadata, write_part
from shardwright_costmodel.features import table_features
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.runtime import OnnxCostModel

HARDWARE = "synthetic-example"

KINDS = (Kind.COMPUTE, Kind.COMM, Kind.ALL_REDUCE)
CSV = ("tables.csv", "devices.csv", "reduces.csv")
TABLE = ["num_embeddings", "embedding_dim", "pooling_factor", "reuse_histogram", "weight_dtype"]
OPERATOR = ["operator", "global_batch_size", "optimizer", "forward_ms", "backward_ms"]
COLLECTIVE = ["collective", "world_size", "devices_per_host", "global_batch_size"]
DEVICE = ["dims", "start_skew_ms", "forward_ms", "backward_ms"]
TIMES = ["forward_ms", "backward_ms", "time_ms"]


def convert(folder: Path, data: str, origin: PartMetadata) -> None:
    """Writes a dataset from three CSV files: one table, one device, one all-reduce a line."""
    tables, devices, reduces = (pd.read_csv(folder / name) for name in CSV)
    tables["reuse_histogram"] = [[]] * len(tables)  # unknown: Zipf is assumed
    pieces = tables.groupby(OPERATOR)[TABLE].apply(lambda table: table.to_dict("records"))
    operators = pieces.rename("tables").reset_index()
    alltoalls = devices.groupby(COLLECTIVE)[DEVICE].agg(list).reset_index()
    for kind, frame in zip(KINDS, (operators, alltoalls, reduces), strict=True):
        # only medians were kept; what is no column of a part is left out
        spread = {f"{t}_{p}": frame[t] for t in TIMES if t in frame for p in ("p10", "p90")}
        rows = frame.assign(repetitions=20, **spread).to_dict("records")
        write_part(data, kind, "mine", rows, origin)


def synthetic_csv(folder: Path, draw: np.random.Generator) -> None:
    """SYNTHETIC numbers: bytes moved over made-up bandwidths, and a constant."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = pd.DataFrame({"operator": np.repeat(np.arange(400), 3)})
    count = len(tables)
    tables["global_batch_size"] = np.repeat(2 ** draw.integers(9, 17, 400), 3)
    tables["optimizer"] = np.repeat(draw.choice(["sgd", "rowwise_adagrad", "adam"], 400), 3)
    tables["num_embeddings"] = (10 ** draw.uniform(3, 7, count)).astype(int)
    tables["embedding_dim"] = 4 * draw.integers(1, 33, count)
    tables["pooling_factor"] = 10 ** draw.uniform(0, 1.5, count)
    tables["weight_dtype"] = "fp32"
    gigabytes = (
        (4e-9 * tables.global_batch_size * tables.pooling_factor * tables.embedding_dim)
        .groupby(tables.operator)
        .transform("sum")
    )
    tables["forward_ms"], tables["backward_ms"] = 0.02 + gigabytes, 0.1 + 2.5 * gigabytes
    tables.to_csv(folder / "tables.csv", index=False)

    world, batch = 2 ** draw.integers(1, 5, 200), 2 ** draw.integers(9, 17, 200)
    devices = pd.DataFrame({"collective": np.arange(200), "world_size": world})
    devices["devices_per_host"] = np.minimum(world, 8)
    devices["global_batch_size"] = batch
    devices = devices.loc[devices.index.repeat(devices.world_size)]
    devices["dims"] = 4 * draw.integers(1, 400, len(devices))
    devices["start_skew_ms"] = draw.uniform(0, 5, len(devices))
    groups = devices.groupby("collective")
    transfer_ms = 0.01 + 4e-8 * groups.dims.transform("max") * devices.global_batch_size
    wait_ms = groups.start_skew_ms.transform("max") - devices.start_skew_ms
    devices["forward_ms"], devices["backward_ms"] = wait_ms + transfer_ms, 1.5 * transfer_ms
    devices.to_csv(folder / "devices.csv", index=False)

    reduces = pd.DataFrame({"world_size": world, "devices_per_host": np.minimum(world, 8)})
    reduces["num_bytes"] = 4 * (10 ** draw.uniform(3, 8, 200)).astype(int)
    reduces["time_ms"] = 0.01 * world + 2e-8 * reduces.num_bytes
    reduces.to_csv(folder / "reduces.csv", index=False)


def main(folder: Path) -> None:
    """Makes the numbers, converts them, trains on them, and asks for a prediction."""
    data, bundles = str(folder / "data"), str(folder / "bundles")
    synthetic_csv(folder / "csv", np.random.default_rng(0))
    # yours are "measured"; on what and with what is free text that the bundle will show
    origin = PartMetadata(
        HARDWARE, "modelled", fingerprint={"device": "none: SYNTHETIC numbers of an example"}
    )
    convert(folder / "csv", data, origin)
    trainer = Path(sys.executable).parent / "shardwright-train"
    options = ["--epochs", "5", "--max-minutes", "0.2"]  # a real training takes the defaults
    subprocess.run([trainer, "--data", data, "--out", bundles, *options], check=True)

    model = OnnxCostModel.from_bundle(Registry(bundles).load(HARDWARE))
    batch = 16384
    tables = [
        EmbeddingTable("users", 5_000_000, 64, pooling_factor=1.0, weight_dtype=WeightDtype.FP32),
        EmbeddingTable("clicks", 800_000, 32, pooling_factor=20.0, weight_dtype=WeightDtype.FP32),
    ]
    shards = model.encode(table_features(tables, batch, Optimizer.SGD))
    ((forward_ms, backward_ms),) = model.compute_ms(shards.sum(axis=0, keepdims=True))
    moved_gb = sum(4e-9 * batch * t.pooling_factor * t.embedding_dim for t in tables)
    print(
        f"predicted: forward {forward_ms:.3f} ms, backward {backward_ms:.3f} ms\n"
        f"formula:   forward {0.02 + moved_gb:.3f} ms, backward {0.1 + 2.5 * moved_gb:.3f} ms"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "bring_your_own"))
