"""A commit is all or nothing, also for a process that is killed in its midst."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_taskcache import Cache, cached

WRITER = """
import sys
from pytest_taskcache import Cache, cached, transaction

@cached(key_fn=lambda context, arguments: f"record {arguments['n']}")
def f(n):
    return "x" * 5000 * (n % 2) + str(n)

with Cache(sys.argv[1]):
    with transaction():
        for n in range(60):
            f(n)
        if sys.argv[2] == "staged":
            print("ready", flush=True)
            sys.stdin.read()
        print("ready", flush=True)
    print("committed", flush=True)
    sys.stdin.read()
"""


@cached(key_fn=lambda context, arguments: f"record {arguments['n']}")
def f(n):
    return "computed here"


def survivors(cache: Path) -> int:
    """How many of the records another run finds."""
    with Cache(cache, mode="r"):
        return sum(f.call(n).name == "Cached" for n in range(60))


@pytest.mark.parametrize("moment", ["staged", "committing", "committed"])
def test_killed_by_sigkill(tmp_path, moment):
    """Before the commit nothing is visible, after it everything, and in between one of both."""
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    for attempt in range(2 if moment == "committing" else 1):
        cache = tmp_path / f"cache{attempt}"
        with subprocess.Popen(
            [sys.executable, str(script), str(cache), moment],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            if moment == "committed":
                assert writer.stdout.readline() == "committed\n"
            os.kill(writer.pid, signal.SIGKILL)
            assert writer.stdin is not None
            writer.stdin.close()
            assert writer.wait(30) == -signal.SIGKILL
        found = survivors(cache)
        expected = {"staged": {0}, "committed": {60}, "committing": {0, 60}}[moment]
        assert found in expected


def test_what_a_killed_run_had_staged_is_swept(tmp_path):
    """By the next run that writes."""
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    cache = tmp_path / "cache"
    with subprocess.Popen(
        [sys.executable, str(script), str(cache), "staged"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.kill()
        assert writer.stdin is not None
        writer.stdin.close()
        writer.wait(30)
    with Cache(cache) as opened:
        assert opened.engine.parts.local.statistics().staged == 0
