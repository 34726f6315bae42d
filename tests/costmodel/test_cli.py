"""`shardwright-train` as people run it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from html_page import HtmlPage
from typer.testing import CliRunner

from shardwright_costmodel.registry import Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.checkpoint import Checkpoint
from shardwright_costmodel.training.cli import app

COMMAND = [str(Path(sys.executable).parent / "shardwright-train")]
QUICK = ["--epochs", "1", "--max-minutes", "0.02", "--no-report"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=240, check=False
    )


def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In this process, where a second training need not trace its graphs again."""
    done = CliRunner().invoke(app, arguments)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def test_a_dataset_becomes_a_published_bundle(dataset_url: str, tmp_path: Path) -> None:
    out, kept = str(tmp_path / "models"), str(tmp_path / "checkpoint")
    options = ("--name", "mine", "--report", "--checkpoint", kept, *QUICK[:-1])
    done = run("--data", dataset_url, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert list(Path(kept).iterdir()) == [], "a checkpoint goes when the bundle is published"
    (entry,) = Registry(out).list()
    folder = Path(entry.url.removeprefix("file://"))
    HtmlPage((folder / "report.html").read_text()).check()
    assert (folder / "report-predictions.png").exists()
    assert f"report: {entry.url}/report.html" in done.stdout
    assert entry.hardware == "test-machine"
    for text in ("MODELLED", "compute_backward", "forward_comm", "MAPE", entry.version, out):
        assert text in done.stdout
    model = OnnxCostModel.from_bundle(Registry(out).load("test-machine"))
    assert model.id.name == "mine"


def test_json_holds_the_manifest_and_nothing_else_is_printed(
    dataset_url: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "models")
    arguments = ("--data", dataset_url, "--out", out, "--version", "v7", *QUICK, "--json")
    done = run_here(*arguments)
    payload = json.loads(done.stdout)
    assert payload["url"] == f"{out}/test-machine/v7"
    assert payload["report"] is None
    assert not (Path(out) / "test-machine" / "v7" / "report.html").exists()
    assert payload["manifest"]["version"] == "v7"
    assert {a["quantity"] for a in payload["manifest"]["accuracy"]} >= {"compute", "forward_comm"}
    again = run_here(*arguments)
    assert again.stdout == ""
    assert_one_line(again, f"{out} already holds test-machine v7; choose another --version")


def test_a_training_promotes_what_is_not_worse_and_says_what_is(
    dataset_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "models"
    arguments = ("--data", dataset_url, "--out", str(out), *QUICK)
    first = run_here(*arguments, "--version", "a", "--no-promote", "--json")
    assert first.returncode == 0
    assert json.loads(first.stdout)["default_version"] == "a", "there is no other"
    assert Registry(str(out)).promotions("test-machine") is None
    # a bundle that nothing can be better than
    manifest = out / "test-machine" / "a" / "manifest.json"
    payload = json.loads(manifest.read_text())
    for accuracy in payload["accuracy"]:
        accuracy["mape_percent"] = 0.001
    manifest.write_text(json.dumps(payload))

    refused = run_here(*arguments, "--version", "b")
    assert refused.returncode == 3
    assert "published b at" in refused.stdout
    assert "not promoted: a goes on serving test-machine" in refused.stdout
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: test-machine b is not promoted over a: compute MAPE ")
    assert "against 0.00 %, more than the 0.20 % allowed" in line
    assert Registry(str(out)).default_version("test-machine") == "a"

    forced = run_here(*arguments, "--version", "d", "--force")
    assert forced.returncode == 0
    assert "d serves test-machine now" in forced.stdout
    assert Registry(str(out)).default_version("test-machine") == "d"


def assert_one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_bad_dataset_is_one_clear_line(
    tmp_path: Path, write: Callable[..., str], compute: list[Any], comm: list[Any]
) -> None:
    compute[5]["forward_ms"] = float("nan")
    done = run("--data", write(tmp_path / "data", compute, comm), "--out", str(tmp_path / "models"))
    assert_one_line(done, "compute/part-0.parquet: column forward_ms, row 5")
    assert not (tmp_path / "models").exists()


def test_a_full_disk_while_spooling_is_one_clear_line(dataset_url: str, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [*COMMAND, "--data", dataset_url, "--out", str(tmp_path / "models")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=small_files,
    )
    assert_one_line(done, f"{tmp_path}: no room to spool measurements after ")
    assert "set TMPDIR to a folder on a disk with more room" in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_checkpoint_of_another_training_is_one_clear_line(
    dataset_url: str, tmp_path: Path
) -> None:
    folder = str(tmp_path / "checkpoint")
    Checkpoint(folder, {"seed": "7"}).save("compute", {})
    out = str(tmp_path / "models")
    done = run("--data", dataset_url, "--out", out, "--checkpoint", folder)
    assert_one_line(done, "checkpoint/training.pt: is of another training (seed 7, now 0; ")
    assert not (tmp_path / "models").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without CUDA")
def test_a_device_that_is_not_there_is_one_clear_line(dataset_url: str, tmp_path: Path) -> None:
    done = run("--data", dataset_url, "--out", str(tmp_path / "models"), "--device", "cuda")
    assert_one_line(done, "--device cuda: torch ")


def test_a_missing_dataset_is_one_clear_line(tmp_path: Path) -> None:
    done = run("--data", str(tmp_path / "none"), "--out", str(tmp_path / "models"))
    assert_one_line(done, "none/compute: holds no *.parquet part")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--version", "../1"], "version"), (["--name", "a b"], "name")],
)
def test_a_bad_name_is_said_before_any_training(
    dataset_url: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run("--data", dataset_url, "--out", str(tmp_path / "models"), *arguments)
    assert_one_line(done, f"--{message} must be")
