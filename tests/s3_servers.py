"""Real S3 servers for tests: moto, which honours conditional writes, and rclone, which does not.

Each runs on a free loopback port and is stopped by its process id, whatever the test did.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from servers import free_port

ACCESS_KEY = "taskcacheaccess"
SECRET_KEY = "taskcachesecretkey"
BUCKET = "bucket"
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server: its endpoint URL and the environment by which clients find it."""

    endpoint: str
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


@contextmanager
def running(
    command: list[str], ready: Callable[[], bool], log: Path, account: int | None = None
) -> Iterator[None]:
    """A process, of the user ``account`` if given, that has become ready; its output goes to
    ``log``."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, user=account
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _put(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """An S3 server that honours ``If-None-Match``, with an empty BUCKET."""
    with TemporaryDirectory(prefix="taskcache-moto-") as directory:
        root = Path(directory)
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running(command, lambda: _answers(endpoint), root / "log"):
            _put(f"{endpoint}/{BUCKET}")
            yield S3Server(endpoint, root)


@contextmanager
def rclone_s3_server(*options: str) -> Iterator[S3Server]:
    """An S3 server over a directory that silently ignores conditional writes, with BUCKET;
    ``options`` are further command line options, e.g. ``--read-only``."""
    with TemporaryDirectory(prefix="taskcache-rclone-") as directory:
        root = Path(directory)
        (root / "data" / BUCKET).mkdir(parents=True)
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        rclone = Path(sys.executable).with_name("rclone")
        command = [
            os.fspath(rclone), "serve", "s3", os.fspath(root / "data"),
            "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}",
            "--config", os.fspath(root / "rclone.conf"),
            "--vfs-cache-mode", "off", *options,
        ]  # fmt: skip
        with running(command, lambda: _answers(endpoint), root / "log"):
            yield S3Server(endpoint, root)
