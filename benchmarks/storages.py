"""Latency and throughput of every remote storage, beside raw fsspec and s3fs, in one run.

Run it as ``python benchmarks/storages.py`` from the repository (with the test extra installed);
``--only s3 redis`` chooses, ``--records 10000`` sets how many records are swept, ``--large 100``
how many MB a large payload has. It starts its own servers on loopback, so the figures are those
of the software and of this machine, not of a network: compare ratios within one run. Those of one
run stand in ``docs/shared-storage.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import fsspec
from s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, rclone_s3_server
from servers import postgres_server, redis_server

from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.testing.storages import a_variant, digest_of

SMALL = 4096
TURNS = 40
RAW_FILES = 1000
"""Files that bare fsspec sweeps; its figure is per key, as ours."""


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median(calls: list[Callable[[], object]]) -> float:
    times = sorted(seconds(call) for call in calls)
    return times[len(times) // 2]


def measure_storage(url: str, records: int, large: int) -> dict[str, float]:
    """Seconds for one small write and read (median), one large one, and the sweep."""
    writer, reader = storage_by_url(url), storage_by_url(url)
    payloads = [os.urandom(SMALL) for _ in range(TURNS)]
    big = os.urandom(large)
    variants = [a_variant() for _ in range(records)]
    figures = {
        "small write": median(
            [lambda p=p: writer.write_result(digest_of(p), [p]) for p in payloads]
        ),
        "small read": median(
            [lambda p=p: reader.read_result(digest_of(p), SMALL) for p in payloads]
        ),
        "record write": median(
            [lambda v=v: writer.write_records([v]) for v in (a_variant() for _ in range(TURNS))]
        ),
        "large write": seconds(lambda: writer.write_result(digest_of(big), [big])),
        "large read": seconds(lambda: reader.read_result(digest_of(big), large)),
    }
    for start in range(0, records, 1000):
        writer.write_records(variants[start : start + 1000])
    keys = [variant.key for variant in variants]
    figures["sweep"] = seconds(lambda: reader.read_records(keys))
    figures["sweep of unknown"] = seconds(lambda: reader.read_records([k[::-1] for k in keys]))
    assert len(reader.read_records(keys[:10])) == 10
    writer.close()
    reader.close()
    return figures


def measure_raw(fs: fsspec.AbstractFileSystem, root: str, large: int) -> dict[str, float]:
    """The same through bare fsspec: a file each; the sweep in threads, or by s3fs's bulk call."""
    # rclone does not answer ranges, which s3fs would ask for in parallel.
    whole = {"max_concurrency": 1} if fs.async_impl else {}
    payload, big = os.urandom(SMALL), os.urandom(large)
    with contextlib.suppress(NotImplementedError):
        fs.makedirs(root, exist_ok=True)
    paths = [f"{root}/{number}" for number in range(RAW_FILES)]
    fs.pipe(dict.fromkeys(paths, payload[:900])) if fs.async_impl else [
        fs.pipe_file(path, payload[:900]) for path in paths
    ]

    def sweep() -> object:
        if fs.async_impl:
            return fs.cat(paths)
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(fs.cat_file, paths))

    return {
        "small write": median(
            [lambda n=n: fs.pipe_file(f"{root}/s{n}", payload) for n in range(TURNS)]
        ),
        "small read": median([lambda n=n: fs.cat_file(f"{root}/s{n}") for n in range(TURNS)]),
        "large write": seconds(lambda: fs.pipe_file(f"{root}/big", big)),
        "large read": seconds(lambda: fs.cat_file(f"{root}/big", **whole)),
        "sweep": seconds(sweep) / RAW_FILES,
    }


@contextlib.contextmanager
def s3() -> Iterator[tuple[str, Callable[[], tuple[fsspec.AbstractFileSystem, str]]]]:
    with rclone_s3_server() as server:
        os.environ.update(server.environment)

        def raw() -> tuple[fsspec.AbstractFileSystem, str]:
            fs = fsspec.filesystem(
                "s3", key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=server.endpoint
            )
            return fs, f"{BUCKET}/raw"

        yield f"s3://{BUCKET}/cache", raw


@contextlib.contextmanager
def directory() -> Iterator[tuple[str, Callable[[], tuple[fsspec.AbstractFileSystem, str]]]]:
    with tempfile.TemporaryDirectory() as place:
        yield f"file://{place}/cache", lambda: (fsspec.filesystem("file"), f"{place}/raw")


@contextlib.contextmanager
def memory() -> Iterator[tuple[str, Callable[[], tuple[fsspec.AbstractFileSystem, str]]]]:
    yield "memory://cache", lambda: (fsspec.filesystem("memory"), "/raw")


@contextlib.contextmanager
def sqlite() -> Iterator[tuple[str, None]]:
    with tempfile.TemporaryDirectory() as place:
        yield f"sqlite:///{place}/cache.db", None


@contextlib.contextmanager
def postgres() -> Iterator[tuple[str, None]]:
    with postgres_server() as server:
        yield server.url, None


@contextlib.contextmanager
def redis() -> Iterator[tuple[str, None]]:
    with redis_server() as server:
        yield server.url, None


PLACES = {
    "s3": s3, "file": directory, "memory": memory,
    "sqlite": sqlite, "postgres": postgres, "redis": redis,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PLACES, default=list(PLACES))
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100, help="MB")
    options = parser.parse_args()
    for name in options.only:
        with PLACES[name]() as (url, raw):
            ours = measure_storage(url, options.records, options.large * 10**6)
            theirs = measure_raw(*raw(), options.large * 10**6) if raw else {}
        print(f"\n{name}: {options.records} records, large = {options.large} MB")
        for what, figure in ours.items():
            line = f"  {what:18} {figure * 1000:10.2f} ms"
            if what.startswith("large"):
                line += f"  {options.large / figure:8.0f} MB/s"
            if what.startswith("sweep"):
                line += f"  {options.records / figure:8.0f} keys/s"
            if what == "sweep" and what in theirs:
                theirs[what] *= options.records
            if what in theirs:
                line += f"   raw fsspec {theirs[what] * 1000:10.2f} ms"
                line += f"   ours/raw {figure / theirs[what]:.2f}"
            print(line)


if __name__ == "__main__":
    main()
