"""Object storage through ``obstore`` (extra ``objects``): S3, Google Cloud Storage, Azure, and a
shared directory.

URLs: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``,
``file:///directory``. Options: ``endpoint`` and ``region`` (S3 only), ``timeout`` (seconds for
one request, 30).

Credentials are found the usual way: for S3 the ``AWS_*`` variables (``AWS_ENDPOINT_URL`` among
them), else the profile ``AWS_PROFILE`` of the shared files, else what the machine's role gives;
for Google ``GOOGLE_*``; for Azure ``AZURE_STORAGE_*``. An endpoint that says ``http://`` is
meant: no further switch is needed.

Nothing here rests on conditional writes. ``put_absent`` uses one to save a request; servers that
ignore it write the same bytes again.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError
from obstore.store import LocalStore, from_url

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.location import Location
from pytest_taskcache.storage.object_storage import ObjectStorage
from pytest_taskcache.storage.object_store import (
    PIECE,
    Download,
    Listed,
    ObjectStoreError,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore as NativeStore

SECONDS = 30.0
_CONNECT_SECONDS = 3
_SILENCE_SECONDS = 10
_RETRIES = 2
_UPLOADS = 4
"""Pieces of one large result under way at once."""

_STATUS = re.compile(r"status code: (\d{3})").search
_PROCESS: list[int] = []
"""The process that first used obstore. Its threads do not survive a fork: a child that used it
would wait for ever, and disturb its parent through the shared epoll descriptor."""


def open_objects(location: Location) -> ObjectStorage:
    """The storage at a URL. Connects when it is first used. Raises ConfigurationError if the
    URL cannot be right."""
    s3 = location.scheme in {"s3", "s3a"}
    location.expect({"timeout", "endpoint", "region"} if s3 else {"timeout"})
    seconds = location.seconds("timeout", SECONDS) or SECONDS
    return ObjectStorage(ObstoreStore(location, seconds), location.shown, seconds=seconds)


class ObstoreStore:
    """An ObjectStore over the obstore store of a URL, which is made when it is first used."""

    def __init__(self, location: Location, seconds: float) -> None:
        self._location = location
        self._seconds = seconds
        self._directory = _directory(location)
        self._native: NativeStore | None = None
        if self._directory is None:
            self._native = self._connect()

    def open(self, path: str) -> Download | None:
        """One request; a large object arrives in pieces."""
        try:
            with _told():
                answer = obstore.get(self._reading(), path)
                size = int(answer.meta["size"])
                if size <= PIECE:
                    return Download(size, iter([memoryview(answer.bytes())]))
                return Download(size, _told_pieces(answer.stream(min_chunk_size=PIECE // 4)))
        except FileNotFoundError:
            return None

    def put(self, path: str, data: Buffer) -> None:
        """One request."""
        with _absent_bucket(), _told():
            obstore.put(self._writing(), path, data, use_multipart=False)

    def put_absent(self, path: str, data: Buffer) -> bool:
        """One conditional request where the store has them, else an unconditional one."""
        store = self._writing()
        try:
            with _absent_bucket(), _told(AlreadyExistsError, PreconditionError, NotSupportedError):
                obstore.put(store, path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        except NotSupportedError:
            self.put(path, data)
        return True

    def put_pieces(self, path: str, pieces: Iterable[Buffer], size: int) -> None:
        """A multipart upload, which becomes visible as a whole when it is completed."""
        with _absent_bucket(), _told():
            obstore.put(
                self._writing(),
                path,
                iter(pieces),
                use_multipart=True,
                chunk_size=PIECE,
                max_concurrency=_UPLOADS,
            )

    def size(self, path: str) -> int | None:
        """One request."""
        try:
            with _told():
                return int(obstore.head(self._reading(), path)["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> list[Listed]:
        """One request for each thousand objects."""
        try:
            with _told():
                found = obstore.list(self._reading(), prefix, chunk_size=1000).collect()
        except FileNotFoundError:
            return []
        return [Listed(meta["path"], meta["last_modified"].timestamp()) for meta in found]

    def delete(self, paths: Sequence[str]) -> None:
        """Bulk requests where the store has them."""
        store = self._reading()
        try:
            with _told():
                obstore.delete(store, list(paths))
        except FileNotFoundError:
            # Some stores stop at the first object that is not there.
            for path in paths:
                try:
                    with _told():
                        obstore.delete(store, path)
                except FileNotFoundError:
                    continue

    def close(self) -> None:
        """Nothing is held but idle connections, which the library closes by itself."""

    # ------------------------------------------------------------------------- the store

    def _reading(self) -> NativeStore:
        _same_process()
        if self._native is None:
            assert self._directory is not None
            if not self._directory.is_dir():
                raise FileNotFoundError
            self._native = _local(self._directory)
        return self._native

    def _writing(self) -> NativeStore:
        _same_process()
        if self._directory is not None:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ObjectStoreError(os.strerror(error.errno or 0).lower()) from None
        return self._reading()

    def _connect(self) -> NativeStore:
        location = self._location
        extra: dict[str, Any] = {}
        config: dict[str, Any] = {}
        if location.scheme in {"s3", "s3a"}:
            endpoint = location.options.get("endpoint") or _s3_endpoint(os.environ)
            config, extra = _s3_settings(os.environ, endpoint, location.options.get("region"))
        elif location.scheme in {"az", "azure"}:
            endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT")
        else:
            endpoint = os.environ.get("GOOGLE_BASE_URL")
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, self._seconds)),
            "read_timeout": timedelta(seconds=min(_SILENCE_SECONDS, self._seconds)),
            # A whole transfer: each caller has a shorter limit, in proportion to its size.
            "timeout": timedelta(hours=1),
        }
        if endpoint and endpoint.lower().startswith("http://"):
            client["allow_http"] = True
        retry = {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=self._seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        }
        try:
            with _told():
                # The settings differ by provider, more than the library's overloads can tell.
                connect: Callable[..., NativeStore] = from_url
                return connect(
                    location.base,
                    config=config or None,
                    client_options=client,
                    retry_config=retry,
                    **extra,
                )
        except (ObjectStoreError, ValueError, FileNotFoundError) as error:
            reason = error.reason if isinstance(error, ObjectStoreError) else type(error).__name__
            raise location.error(
                f"the store cannot be set up ({reason})",
                "write scheme://bucket/prefix and check the provider's environment variables",
            ) from None


def _local(directory: Path) -> NativeStore:
    with _told():
        return LocalStore(directory)


def _directory(location: Location) -> Path | None:
    if location.scheme != "file":
        return None
    path = unquote(location.base.removeprefix("file://"))
    if not path.startswith("/"):
        raise location.error("a file URL names an absolute directory", "write file:///directory")
    return Path(path)


def _same_process() -> None:
    if not _PROCESS:
        _PROCESS.append(os.getpid())
    if _PROCESS[0] != os.getpid():
        raise ObjectStoreError("object stores cannot be used in a forked process")


# ------------------------------------------------------------------------------------- S3


def _s3_endpoint(environment: Mapping[str, str]) -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if environment.get(name):
            return environment[name]
    return None


def _s3_settings(
    environment: Mapping[str, str], endpoint: str | None, region: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration beyond what obstore finds in the environment: the endpoint, and the shared
    profile where no key is set. A profile without a static key (single sign-on, roles) is left to
    boto3 where it is installed."""
    config: dict[str, Any] = {}
    if endpoint:
        config["endpoint"] = endpoint
    profile = {} if environment.get("AWS_ACCESS_KEY_ID") else _profile(environment)
    region = region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    config["region"] = region or profile.get("region") or "us-east-1"
    if "aws_access_key_id" in profile and "aws_secret_access_key" in profile:
        config["access_key_id"] = profile["aws_access_key_id"]
        config["secret_access_key"] = profile["aws_secret_access_key"]
        if "aws_session_token" in profile:
            config["session_token"] = profile["aws_session_token"]
    elif profile:
        try:
            from obstore.auth.boto3 import Boto3CredentialProvider

            return config, {"credential_provider": Boto3CredentialProvider()}
        except Exception:
            # Without boto3, or with a profile it makes nothing of, obstore's own search goes on
            # and the first request tells what is missing.
            return config, {}
    return config, {}


def _profile(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of the chosen profile in the shared configuration files; empty if none."""
    name = environment.get("AWS_PROFILE") or "default"
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name),
    ):
        path = Path(environment.get(variable) or file)
        parser = configparser.RawConfigParser()
        try:
            parser.read(path.expanduser(), encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError, RuntimeError):
            continue  # an unreadable file offers nothing; the first request tells what is missing
        if parser.has_section(section):
            found.update(parser.items(section))
    return found


# --------------------------------------------------------------------------------- errors


@contextmanager
def _told(*passed: type[Exception]) -> Iterator[None]:
    """Turns obstore's errors into ObjectStoreError with a short reason, except ``passed`` and
    FileNotFoundError. The library's own texts hold URLs and headers and are not repeated."""
    try:
        yield
    except (ObjectStoreError, FileNotFoundError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # The library raises its own errors, built-in ones, and panics that are no Exception.
        if isinstance(error, passed):
            raise
        raise ObjectStoreError(_reason(error)) from None


@contextmanager
def _absent_bucket() -> Iterator[None]:
    """What a write does not find is no object but its bucket or container."""
    try:
        yield
    except FileNotFoundError:
        raise ObjectStoreError("no such bucket") from None


def _told_pieces(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    iterator = iter(pieces)
    while True:
        with _told():
            piece = next(iterator, None)
        if piece is None:
            return
        yield piece


_PHRASES = (
    ("NoSuchBucket", "no such bucket"),
    ("ContainerNotFound", "no such container"),
    ("Read-only file system", "read-only file system"),
    ("Permission denied", "permission denied"),
    ("No space left", "no space left on device"),
    ("TimedOut", "timed out"),
    ("timed out", "timed out"),
    ("BadScheme", "http is not allowed"),
    ("169.254.169.254", "no credentials"),
    ("metadata.google", "no credentials"),
    ("dns error", "unknown host"),
    ("ConnectionRefused", "connection refused"),
    ("ConnectionReset", "connection reset"),
    ("error sending request", "connection failed"),
)


def _reason(error: BaseException) -> str:
    """A short class of errors; repeats nothing of the error's text."""
    text = str(error)
    name = type(error).__name__
    for phrase, reason in _PHRASES:
        if phrase in text:
            return reason
    status = _STATUS(text)
    if name in {"PermissionDeniedError", "UnauthenticatedError"} or (
        status and status[1] in {"401", "403"}
    ):
        return "permission denied"
    if status:
        return f"server answered {status[1]}"
    return name


__all__ = ["ObstoreStore", "open_objects"]
