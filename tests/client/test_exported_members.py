"""`shardwright_client.__all__` is what users may rely on."""

import subprocess
import sys

import pytest

import shardwright_client
from shardwright_client import errors


def test_every_exported_name_exists_and_is_sorted() -> None:
    names = shardwright_client.__all__
    assert all(hasattr(shardwright_client, name) for name in names)
    assert names == sorted(names, key=_ruff_order)
    assert len(set(names)) == len(names)


def _ruff_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    for name in errors.__all__:
        assert name in shardwright_client.__all__
        assert name in (errors.__doc__ or "")
        assert issubclass(getattr(errors, name), errors.ShardwrightClientError)


def test_the_tree_of_the_docstring_is_the_real_one() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line or "│" in line]
    parents = ["ShardwrightClientError"]
    for line in drawn:
        depth = 1 if line[0] in "├└" else 2
        name = line.split("── ")[1].split()[0]
        del parents[depth:]
        assert getattr(errors, name).__bases__[0].__name__ == parents[-1], name
        parents.append(name)


@pytest.mark.parametrize("module", ["shardwright_client", "shardwright_client.cli"])
def test_importing_needs_grpcio_and_protobuf_only(module: str) -> None:
    check = (
        f"import sys, {module}\n"
        "heavy = {'numpy', 'torch', 'torchrec', 'fbgemm_gpu', 'rich', 'typer', 'click',\n"
        "         'onnxruntime', 'pydantic'}\n"
        "loaded = heavy & {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded, loaded\n"
        "assert 'google.rpc' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
