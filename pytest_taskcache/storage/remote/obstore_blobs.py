"""Blobs through ``obstore`` (extra ``objects``): S3, Google Cloud Storage, Azure, and a shared
directory.

URLs: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``,
``file:///directory``. Options: ``endpoint`` and ``region`` (S3 only), ``timeout`` (seconds for
one request, 30).

Credentials are the library's business: ``AWS_*``, ``GOOGLE_*`` and ``AZURE_STORAGE_*`` variables,
or what the machine's role gives; profiles of ``~/.aws`` are read by ``boto3`` where it is
installed. An endpoint that says ``http://`` is meant: no further switch is needed. Nothing here
rests on conditional writes, which some servers ignore.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar

import obstore
from obstore.store import LocalStore, from_url

from pytest_taskcache.ports import Buffer
from pytest_taskcache.storage.remote.blobs import LIMIT, BlobError, Blobs, Listed
from pytest_taskcache.storage.remote.location import Location

_CONNECT_SECONDS = 3
_SILENCE_SECONDS = 10
_STATUS = re.compile(r"status code: (\d{3})").search
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
}
_PROCESS: list[int] = []
"""The process that first used obstore. Its threads do not survive a fork: a child that used it
would wait for ever, and disturb its parent through the shared epoll descriptor."""


class ObstoreBlobs(Blobs):
    """Objects at a URL. Raises ConfigurationError if the URL cannot be right."""

    concurrency = 32
    phrases: ClassVar = {
        "no such bucket": ("NoSuchBucket",),
        "no such container": ("ContainerNotFound",),
        "read-only file system": ("Read-only file system",),
        "permission denied": ("Permission denied",),
        "no space left on device": ("No space left",),
        "timed out": ("TimedOut", "timed out"),
        "no credentials": ("169.254.169.254", "metadata.google"),
        "unknown host": ("dns error",),
        "connection refused": ("ConnectionRefused",),
        "connection reset": ("ConnectionReset",),
        "connection failed": ("error sending request",),
    }

    def __init__(self, location: Location) -> None:
        super().__init__(location.shown)
        self._provider = {"s3a": "s3", "azure": "az"}.get(location.scheme, location.scheme)
        more = {"endpoint", "region"} if self._provider == "s3" else set()
        location.expect({"timeout", *more})
        self._directory = location.directory() if location.scheme == "file" else None
        self._native: Any = None if self._directory else self._connected(location)

    def get(self, name: str) -> Buffer | None:
        """One request."""
        with suppress(FileNotFoundError):
            answer = obstore.get(self._reading(), name)
            return None if answer.meta["size"] > LIMIT else memoryview(answer.bytes())
        return None

    def put(self, name: str, data: Buffer) -> None:
        """One request."""
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        try:
            obstore.put(self._reading(), name, data, use_multipart=False)
        except FileNotFoundError:
            raise BlobError("no such bucket") from None

    def size(self, name: str) -> int | None:
        """One request."""
        with suppress(FileNotFoundError):
            return int(obstore.head(self._reading(), name)["size"])
        return None

    def list(self, prefix: str) -> Sequence[Listed]:
        """One request for each thousand objects."""
        with suppress(FileNotFoundError):
            found = obstore.list(self._reading(), prefix, chunk_size=1000).collect()
            return [Listed(m["path"], m["size"], m["last_modified"].timestamp()) for m in found]
        return []

    def delete(self, names: Sequence[str]) -> None:
        """Bulk requests where the store has them."""
        try:
            obstore.delete(self._reading(), list(names))
        except FileNotFoundError:
            # Some stores stop at the first object that is not there.
            for name in names if len(names) > 1 else ():
                self.delete([name])

    def reason(self, error: BaseException) -> str:
        """As Blobs.reason; statuses of HTTP where the library tells them only in its text."""
        known = super().reason(error)
        if known in {"PermissionDeniedError", "UnauthenticatedError"}:
            return "permission denied"
        status = _STATUS(str(error))
        if status is None or known != type(error).__name__:
            return known
        forbidden = status[1] in {"401", "403"}
        return "permission denied" if forbidden else f"server answered {status[1]}"

    def _reading(self) -> Any:
        if not _PROCESS:
            _PROCESS.append(os.getpid())
        if _PROCESS[0] != os.getpid():
            raise BlobError("object stores cannot be used in a forked process")
        if self._native is None:
            assert self._directory is not None
            if not self._directory.is_dir():
                raise FileNotFoundError
            self._native = LocalStore(self._directory)
        return self._native

    def _connected(self, location: Location) -> Any:
        seconds = location.seconds("timeout", 30.0)
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, seconds)),
            "read_timeout": timedelta(seconds=min(_SILENCE_SECONDS, seconds)),
            "timeout": timedelta(seconds=seconds),
        }
        names = _ENDPOINTS.get(self._provider, ())
        endpoint = location.options.get("endpoint") or next(filter(None, map(os.getenv, names)), "")
        if endpoint.lower().startswith("http://"):
            client["allow_http"] = True
        retry = {
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        }
        extra = _s3(endpoint, location.options.get("region")) if self._provider == "s3" else {}
        try:
            # The settings differ by provider, more than the library's overloads can tell.
            connect: Callable[..., Any] = from_url
            return connect(location.base, client_options=client, retry_config=retry, **extra)
        except Exception as error:
            problem = f"the store cannot be set up ({self.reason(error)})"
            remedy = "write scheme://bucket/prefix and check the provider's environment variables"
            raise location.error(problem, remedy) from None


def _s3(endpoint: str, region: str | None) -> dict[str, Any]:
    """What obstore does not find by itself: the endpoint, and the profile where no key is set."""
    config = {"endpoint": endpoint} if endpoint else {}
    region = region or os.getenv("AWS_REGION") or os.getenv("AWS_DEFAULT_REGION")
    extra: dict[str, Any] = {}
    files = (
        os.getenv("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
        os.getenv("AWS_CONFIG_FILE") or "~/.aws/config",
    )
    profile = os.getenv("AWS_PROFILE") or any(map(os.path.exists, map(os.path.expanduser, files)))
    if profile and not os.getenv("AWS_ACCESS_KEY_ID"):
        try:
            from obstore.auth.boto3 import Boto3CredentialProvider

            provider = Boto3CredentialProvider()
            extra["credential_provider"] = provider
            region = region or provider.config.get("region")
        except Exception:
            # Without boto3, or with a profile it makes nothing of, obstore's own search goes on
            # and the first request tells what is missing.
            extra = {}
    return {"config": config | {"region": region or "us-east-1"}, **extra}
