"""Contenders as seen by the tests: lock_contender.py in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_taskcache
from pytest_taskcache.ports import Holder, Lease, LockManager

CONTENDER = Path(__file__).with_name("lock_contender.py")
PATIENCE = 30.0


class Contender:
    """A running lock_contender.py."""

    def __init__(self, spec: str, *words: str) -> None:
        source = Path(pytest_taskcache.__file__).parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(CONTENDER), spec, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source)},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the contender ended with {self.process.wait()}"
        return dict(json.loads(line))

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.hear()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it as a crash would, and returns when it is gone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            # What was written to a process that is gone cannot be flushed.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def holder(name: str = "test") -> Holder:
    return Holder(f"run-{name}", 1_700_000_000.0, f"{os.getpid()}@here", name)


def eventually(manager: LockManager, key: str) -> Lease:
    """The lease, as soon as it can be had."""
    end = time.monotonic() + PATIENCE
    while True:
        answer = manager.acquire(key, holder())
        if isinstance(answer, Lease):
            return answer
        assert time.monotonic() < end, f"still held by {answer}"
        time.sleep(0.02)


def finishes(deed: Callable[[], None]) -> bool:
    """Whether it comes back at all; what it raises is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            deed()
        except BaseException as error:  # handed over to the test's own thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if errors:
        raise errors[0]
    return not thread.is_alive()
