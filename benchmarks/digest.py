"""Digests of values beside joblib.hash and raw xxh3-128, as ratios, in one run.

    python benchmarks/digest.py        (with the package installed, or PYTHONPATH=.)

Absolute times vary from machine to machine, the ratios much less. Each row is the best of
several rounds, taken in turns so that a slow moment hits both sides. Exit status 1 if a bar of
the design (section 13) is missed; rows of libraries that are not installed are left out, by name.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_128_hexdigest

from pytest_taskcache.digests.values.digest import digest_arguments, digest_value

ROUNDS = 7


@dataclass
class Trade:
    name: str
    price: float
    count: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    what: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    peer: str
    bar: float | None = None


def best_of(calls: list[Callable[[], object]]) -> list[float]:
    """Seconds per call of each, the best of ROUNDS interleaved rounds."""
    counts = []
    for call in calls:
        start = time.perf_counter()
        call()
        counts.append(max(1, min(2000, int(0.01 / (time.perf_counter() - start)))))
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(counts[index]):
                call()
            best[index] = min(best[index], (time.perf_counter() - start) / counts[index])
    return best


def beside_joblib(hash_value: Callable[[Any], str]) -> Iterator[Row]:
    def row(what: str, value: Any, bar: float | None = None) -> Row:
        return Row(what, lambda: digest_value(value), lambda: hash_value(value), "joblib.hash", bar)

    yield row("100k ints", list(range(100_000)), 10)
    yield row("10k str to float", {f"key{i}": i * 1.5 for i in range(10_000)}, 10)
    yield row("1k dataclasses", [Trade(f"n{i}", i / 7, i, ("a", "b")) for i in range(1000)], 10)
    yield row("nested, 10k nodes", [{"id": i, "at": [i, (i,)]} for i in range(2500)])
    yield row("10k str in a set", {f"key{i}" for i in range(10_000)})
    trade = Trade("n", 1.5, 2, ("a",))
    yield Row(
        "one dataclass", lambda: digest_value(trade), lambda: hash_value(trade), "joblib.hash"
    )
    arguments = {"x": 3, "y": "a"}
    # each hit pays this: 2 µs where joblib takes 20
    yield Row(
        "two small arguments",
        lambda: digest_arguments(arguments),
        lambda: hash_value(arguments),
        "joblib.hash",
        10,
    )


def beside_raw() -> Iterator[Row]:
    import numpy as np

    array = np.random.default_rng(0).random(12_500_000)
    raw = memoryview(array).cast("B")
    yield Row(
        "float64 array, 100 MB",
        lambda: digest_value(array),
        lambda: xxh3_128_hexdigest(raw),
        "raw xxh3-128",
        0.8,
    )


def beside_joblib_on_frames(hash_value: Callable[[Any], str]) -> Iterator[Row]:
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(np.random.default_rng(0).random((125_000, 10)))
    yield Row(
        "DataFrame, 10 MB", lambda: digest_value(frame), lambda: hash_value(frame), "joblib.hash"
    )


def main() -> int:
    installed = {name: _installed(name) for name in ("joblib", "numpy", "pandas")}
    rows: list[Row] = []
    if installed["joblib"]:
        import joblib

        rows += beside_joblib(joblib.hash)
        if installed["pandas"]:
            rows += beside_joblib_on_frames(joblib.hash)
    if installed["numpy"]:
        rows += beside_raw()
    missed = 0
    print(f"{'what':24} {'ours, µs':>12} {'peer, µs':>12}  ratio")
    for row in rows:
        ours, theirs = best_of([row.ours, row.theirs])
        ratio = theirs / ours
        verdict = ""
        if row.bar is not None:
            missed += ratio < row.bar
            verdict = f"  bar {row.bar:g}: {'held' if ratio >= row.bar else 'MISSED'}"
        print(
            f"{row.what:24} {ours * 1e6:12.1f} {theirs * 1e6:12.1f}  "
            f"{ratio:.2f} times {row.peer}{verdict}"
        )
    for name, present in installed.items():
        if not present:
            print(f"{name} is not installed: its rows are left out (pip install {name})")
    return 1 if missed else 0


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    sys.exit(main())
