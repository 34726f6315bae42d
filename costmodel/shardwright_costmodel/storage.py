"""Files under fsspec URLs: opened with time limits, replaced whole, their errors in our words."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shardwright_costmodel.errors import BundleError, CostModelError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0
"""Of one try of an S3 request; s3fs tries five times."""

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""File systems that have no directories, no rename, and put an object whole or not at all."""

_DRIVERS = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"})
"""Packages whose errors are not all `OSError`s."""

_MAX_TRIES = 20

_NO_BUCKET = ("bucket does not exist", "there is no bucket")
_CONDITION_FAILED = ("pre-conditions you specified", "conditional request")
"""How S3 says that somebody else was faster; s3fs keeps only the message."""


def filesystem_of(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path on it, as `fsspec.core.url_to_fs` gives them.

    S3 requests get time limits, unless fsspec is configured otherwise (`FSSPEC_S3_...`): a store
    that does not answer ends in an error, within a minute.
    """
    options: dict[str, Any] = {}
    protocol = fsspec.utils.get_protocol(url)
    if protocol in ("s3", "s3a") and "config_kwargs" not in fsspec.config.conf.get(protocol, {}):
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            # s3fs has tries of its own
            "retries": {"max_attempts": 1},
        }
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    return filesystem, path


def is_local(filesystem: Any) -> bool:
    """Whether files lie on a disk of this machine."""
    return isinstance(filesystem, LocalFileSystem)


def is_object_store(filesystem: Any) -> bool:
    """Whether the file system has objects only: no directories and no rename."""
    return not _OBJECT_STORES.isdisjoint(_protocols(filesystem))


def make_directories(filesystem: Any, path: str) -> None:
    """Makes a directory and those above it; nothing in an object store.

    fsspec's own `makedirs` would make the bucket, where a name was mistyped.
    """
    if not is_object_store(filesystem):
        filesystem.makedirs(path, exist_ok=True)


def require_bucket(filesystem: Any, path: str) -> None:
    """Tells an S3 bucket that does not exist from one that is empty.

    Raises:
        FileNotFoundError: Naming the bucket.
    """
    bucket = path.split("/")[0]
    if "s3" in _protocols(filesystem) and not filesystem.exists(bucket):
        raise FileNotFoundError(f"there is no bucket {bucket!r}")


def update_file(url: str, change: Callable[[bytes | None], bytes]) -> None:
    """Replaces a small file by what `change` makes of its content (None: there is none).

    Readers see the old or the new file, never a part. Two that update at once: on a disk one waits
    for the other; on S3 the later one begins again with the other's content; elsewhere the last
    one wins.

    Raises:
        BundleError: When the file cannot be read or written; then it is as it was.
    """
    with translated(url):
        filesystem, path = filesystem_of(url)
        filesystem.invalidate_cache()
        if is_local(filesystem):
            _update_on_disk(path, change)
        elif "s3" in _protocols(filesystem):
            _update_on_s3(filesystem, path, change)
        elif is_object_store(filesystem):
            filesystem.pipe_file(path, change(_content(filesystem, path)))
        else:
            folder, _, name = path.rpartition("/")
            filesystem.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/{_temporary_name(name)}"
            filesystem.pipe_file(temporary, change(_content(filesystem, path)))
            filesystem.mv(temporary, path)


def read_file(url: str) -> bytes | None:
    """The content of a small file; None when it does not exist.

    Raises:
        BundleError: When it cannot be read.
    """
    with translated(url):
        filesystem, path = filesystem_of(url)
        return _content(filesystem, path)


def open_file(url: str) -> Any:
    """Opens a file to read its bytes, with the time limits of `filesystem_of`."""
    filesystem, path = filesystem_of(url)
    return filesystem.open(path, "rb")


def write_to_disk(path: str, content: bytes) -> None:
    """Writes a new local file that outlives a loss of power from here on."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _update_on_disk(path: str, change: Callable[[bytes | None], bytes]) -> None:
    import fcntl  # POSIX only; nothing else here needs it

    folder, _, name = path.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/{_temporary_name(name)}"
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(path, "rb") as file:
                content: bytes | None = file.read()
        except FileNotFoundError:
            content = None
        write_to_disk(temporary, change(content))
        os.replace(temporary, path)
        os.fsync(lock)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(lock)


def _update_on_s3(filesystem: Any, path: str, change: Callable[[bytes | None], bytes]) -> None:
    for _ in range(_MAX_TRIES):
        try:
            tag = filesystem.info(path, refresh=True)["ETag"]
        except FileNotFoundError:
            condition, content = {"IfNoneMatch": "*"}, None
        else:
            # should it change between the two requests, the condition fails
            condition, content = {"IfMatch": tag}, _content(filesystem, path)
        try:
            filesystem.pipe_file(path, change(content), **condition)
            return
        except FileExistsError:
            continue
        except OSError as error:
            if not any(text in str(error) for text in _CONDITION_FAILED):
                raise
    raise OSError(errno.EBUSY, "others kept changing it; try again")


def _content(filesystem: Any, path: str) -> bytes | None:
    try:
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    return content


def _temporary_name(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex}.tmp"


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextlib.contextmanager
def translated(place: str, kind: type[CostModelError] = BundleError) -> Iterator[None]:
    """Translates the errors of file systems and their drivers into one line.

    Args:
        place: What was read or written, for the message.
        kind: The error to raise.

    Raises:
        CostModelError: Of that kind, naming the place.
    """
    try:
        yield
    except FileNotFoundError as error:
        # otherwise drivers only repeat the path
        is_bucket = any(text in str(error) for text in _NO_BUCKET)
        raise kind(f"{place}: {explained(error) if is_bucket else 'does not exist'}") from error
    except ImportError as error:
        raise kind(
            f"{place}: the driver of this kind of URL is not installed ({error}); "
            "for s3:// install 'shardwright-costmodel[s3]'"
        ) from error
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and not is_driver_error(error):
            raise
        raise kind(f"{place}: {explained(error)}") from error


def is_driver_error(error: BaseException) -> bool:
    """Whether a driver raised it, which need not be an `OSError`."""
    return type(error).__module__.split(".")[0] in _DRIVERS


def explained(error: Exception) -> str:
    """An error of a file system or its driver in one line, with a remedy where one is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "Credentials" in type(error).__name__:
        text += (
            "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the "
            "machine"
        )
    return text
