"""Makes helpers that several folders use importable; an S3 server for those that ask for it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """An `s3.S3`, one for the whole session; make a bucket of your own."""
    from s3 import running_s3

    with running_s3() as server:
        yield server
