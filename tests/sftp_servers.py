"""Real SFTP servers for tests, from rclone and OpenSSH: on free loopback ports, stopped by their
process ids."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import paramiko
from s3_servers import running
from servers import free_port, missing, unprivileged

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


# PAM, because without it the server takes an account without a password for a locked one.
_SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized
PidFile none
StrictModes no
UsePAM yes
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""


@contextmanager
def openssh_sftp_server() -> Iterator[tuple[str, Path]]:
    """The URL of the empty directory of an OpenSSH server that admits this user (``nobody`` where
    we are root) by key, and the file of the key."""
    sshd = os.environ.get("SSHD") or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    sshd = sshd or missing("sshd", "apt-get install openssh-server")
    account = unprivileged()
    user = pwd.getpwuid(os.geteuid() if account is None else account).pw_name
    with TemporaryDirectory(prefix="taskcache-sshd-") as directory:
        root, port = Path(directory), free_port()
        (root / "data").mkdir()
        (root / "sshd_config").write_text(_SSHD.format(port=port, directory=root))
        for name in ("host_key", "user_key"):
            key = paramiko.RSAKey.generate(2048)
            key.write_private_key_file(str(root / name))
        (root / "authorized").write_text(f"ssh-rsa {key.get_base64()}\n")
        if account is not None:
            for path in (root, *root.iterdir()):
                shutil.chown(path, account)
        command = [sshd, "-D", "-e", "-f", str(root / "sshd_config")]
        with running(command, lambda: _greets(port), root / "log", account):
            yield f"sftp://{user}@127.0.0.1:{port}{root}/data", root / "user_key"
