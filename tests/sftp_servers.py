"""A real SFTP server for tests, from rclone: on a free loopback port, stopped by its process id."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from s3_servers import running
from servers import free_port

USER, PASSWORD = "visitor", "sftp-s3cr3t"


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return connection.recv(3) == b"SSH"
    except OSError:
        return False


@contextmanager
def rclone_sftp_server() -> Iterator[str]:
    """The URL, with USER and PASSWORD, of a server's empty directory."""
    with TemporaryDirectory(prefix="taskcache-sftp-") as directory:
        root = Path(directory)
        (root / "data").mkdir()
        port = free_port()
        rclone = Path(sys.executable).with_name("rclone")
        command = [
            os.fspath(rclone), "serve", "sftp", os.fspath(root / "data"),
            "--addr", f"127.0.0.1:{port}", "--user", USER, "--pass", PASSWORD,
            "--config", os.fspath(root / "rclone.conf"), "--vfs-cache-mode", "off",
        ]  # fmt: skip
        with running(command, lambda: _greets(port), root / "log"):
            yield f"sftp://{USER}:{PASSWORD}@127.0.0.1:{port}"
