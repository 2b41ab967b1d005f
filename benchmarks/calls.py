"""What a hit and a miss of a small value cost, beside diskcache and joblib in the same run.

    pip install diskcache joblib
    python benchmarks/calls.py

Prints microseconds of processor time a call, the best of five rounds, and the ratio to diskcache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diskcache
import joblib

from pytest_taskcache import INPUTS, TASK_SOURCE, Cache, cached

HITS, MISSES, ROUNDS = 2_000, 300, 5


def add_one(n: int) -> int:
    return n + 1


@cached
def ours(n: int) -> int:
    return n + 1


@cached(policy=INPUTS + TASK_SOURCE)
def by_key(n: int) -> int:
    return n + 1


def measured(call: Callable[[int], object]) -> tuple[float, float]:
    """Microseconds of a hit and of a miss."""
    hits, misses, fresh = [], [], iter(range(1_000, 10**9))
    call(1), call(1)
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(HITS):
            call(1)
        hits.append((time.process_time() - began) / HITS)
        began = time.process_time()
        for _ in range(MISSES):
            call(next(fresh))
        misses.append((time.process_time() - began) / MISSES)
    return min(hits) * 1e6, min(misses) * 1e6


def calls() -> dict[str, tuple[float, float]]:
    """Microseconds of a hit and of a miss of all of them, in one process."""
    with tempfile.TemporaryDirectory() as place:
        where = Path(place)
        with diskcache.Cache(str(where / "diskcache")) as disk:
            found = {"diskcache, memoize": measured(disk.memoize()(add_one))}
        memory = joblib.Memory(where / "joblib", verbose=0)
        found["joblib, Memory.cache"] = measured(memory.cache(add_one))
        with Cache(where / "ours"):
            found["@cached"] = measured(ours)
            found["@cached, keyed by inputs and source"] = measured(by_key)
    return found


def main() -> None:
    """Prints them."""
    found = calls()
    base = found["diskcache, memoize"]
    print(f"Python {sys.version.partition(' ')[0]}: microseconds of processor time a call")
    for name, (hit, miss) in found.items():
        ratios = f"{hit / base[0]:.2f} and {miss / base[1]:.2f} times diskcache's"
        print(f"{name:36} hit {hit:7.1f}   miss {miss:7.1f}   {ratios}")


if __name__ == "__main__":
    main()
