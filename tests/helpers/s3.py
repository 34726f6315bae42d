"""A server of the S3 protocol on loopback (moto), and the environment that points to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
import pytest
from moto.server import ThreadedMotoServer

SECRET = "hunter2-secret-access-key"


@dataclass(frozen=True)
class S3:
    """A running server.

    Attributes:
        endpoint: Its URL.
    """

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What programs need to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """Makes an empty bucket and returns its URL."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="AKIATESTTESTTEST",
            aws_secret_access_key=SECRET,
        )
        client.create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def running_s3() -> Iterator[S3]:
    """The server, on a free port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        server.stop()


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Has this process use exactly these AWS settings; file systems made before are forgotten."""
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
