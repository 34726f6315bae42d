"""The Dockerfiles: linted, not root, and built from folders that reach the build context."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = sorted((REPOSITORY / "deploy/docker").glob("*.Dockerfile"))
COMMANDS = {
    "server": "shardwright-server",
    "trainer": "shardwright-train",
    "worker": "shardwright-worker",
}


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.stem)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    linted = subprocess.run(
        [str(hadolint), "--failure-threshold", "style", str(dockerfile)],
        capture_output=True,
        text=True,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_last_stage_runs_the_command_as_a_numeric_user(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) >= 2, "multi-stage"
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    command = COMMANDS[dockerfile.stem]
    assert last.rstrip().endswith(f'ENTRYPOINT ["{command}"]')
    assert (Path(sys.executable).parent / command).exists(), "a package has this command"


def test_base_images_are_pinned(dockerfile: Path) -> None:
    bases = re.findall(r"^ARG \w+_IMAGE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    assert len(bases) == 1
    assert re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+-[\w.-]+", bases[0]), bases


def test_everything_copied_is_in_the_build_context(dockerfile: Path) -> None:
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY ([a-z_]+) [a-z_]+$", dockerfile.read_text(), re.MULTILINE)
    assert copied
    for folder in copied:
        assert f"!{folder}" in ignore
        assert (REPOSITORY / folder / "pyproject.toml").exists()


def test_the_server_image_has_neither_torch_nor_the_trainer() -> None:
    text = (REPOSITORY / "deploy/docker/server.Dockerfile").read_text()
    assert "torch" not in text and "train" not in text
