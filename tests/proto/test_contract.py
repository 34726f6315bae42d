"""The contract as a document: comments, versions, purity."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO_FILES = sorted((ROOT / "proto/shardwright/v1").glob("*.proto"))
DISTRIBUTIONS = ("proto", "client", "costmodel", "server", "benchmark_worker")


def statements(path: Path) -> list[tuple[int, str, bool]]:
    """Line number, text and whether a comment stands right above, of every line of code."""
    found, commented = [], False
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if text.startswith("//"):
            commented = True
            continue
        if text:
            found.append((number, text, commented))
        commented = False
    return found


@pytest.mark.parametrize("path", PROTO_FILES, ids=lambda p: p.name)
def test_every_type_is_documented(path: Path) -> None:
    bare = [
        f"{path.name}:{number}: {text}"
        for number, text, commented in statements(path)
        if re.match(r"(message|enum|service|rpc) ", text) and not commented
    ]
    assert not bare, "\n".join(bare)


@pytest.mark.parametrize("path", PROTO_FILES, ids=lambda p: p.name)
def test_every_field_is_documented(path: Path) -> None:
    field = re.compile(r"(repeated |optional )?[\w.<>, ]+ \w+ = \d+;")
    bare = [
        f"{path.name}:{number}: {text}"
        for number, text, commented in statements(path)
        if field.fullmatch(text) and not commented
    ]
    assert not bare, "\n".join(bare)


def test_all_distributions_carry_one_version() -> None:
    versions = {}
    for folder in DISTRIBUTIONS:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        versions[folder] = project["version"]
        (package,) = (p for p in (ROOT / folder).glob("shardwright*/__init__.py"))
        declared = re.search(r'^__version__ = "(.*)"$', package.read_text(), re.M)
        if declared:
            versions[f"{folder} __version__"] = declared[1]
    assert len(set(versions.values())) == 1, versions


def test_domain_types_need_the_standard_library_only() -> None:
    check = (
        "import sys, shardwright.domain\n"
        "foreign = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "foreign -= {'shardwright', '__main__'} | {n for n in foreign if n.startswith('_')}\n"
        "assert not foreign & {'google', 'grpc', 'numpy'}, foreign\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
