"""All that is measured beside peers, in one command, written to ``docs/benchmarks.md``.

    make bench
    make bench PYTHON=python3.13 BENCH_VENV=.venvs/bench-3.13 BENCH_ARGS='--rounds 5 --only calls'

Suites are source distributions from the package index, at the versions named here, unpacked in
``.bench``. Processor time (user and system), medians of rounds taken by turns. Each section is that
of one version of Python; a run replaces its own and leaves the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from calls import calls
from costs import Costs, costs_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
SUITES = {
    "boltons": ("boltons==26.2.0", "boltons-26.2.0", []),
    "jinja2": ("jinja2==3.1.6", "jinja2-3.1.6", []),
    "markdown-it-py": ("markdown-it-py==4.3.0", "markdown_it_py-4.3.0", []),
    "networkx, a part": (
        "networkx==3.4.2",
        "networkx-3.4.2",
        ["networkx/classes", "networkx/generators"],
    ),
}
"""By name: the requirement, the directory in its archive, and what of it is run."""

_HIT = """
from pathlib import Path
{prelude}
def add_one(n):
    return n + 1
place = {place!r}
{body}
"""
_FRESH = {
    "taskcache, `with Cache(...)`": (
        "from pytest_taskcache import Cache, cached",
        "with Cache(Path(place) / 'ours'):\n    cached(add_one)(1)",
    ),
    "diskcache": (
        "import diskcache",
        "with diskcache.Cache(place + '/disk') as cache:\n    cache.memoize()(add_one)(1)",
    ),
    "joblib": ("import joblib", "joblib.Memory(place + '/joblib', verbose=0).cache(add_one)(1)"),
    "nothing (Python and pathlib)": ("", "add_one(1)"),
}


def unpacked(requirement: str, directory: str) -> Path:
    """A source distribution, fetched once."""
    place = ROOT / ".bench"
    if not (place / directory).exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run(
            [*pip, "--no-binary=:all:", "--dest", str(place), requirement], cwd=ROOT, check=True
        )
        with tarfile.open(place / f"{directory}.tar.gz") as archive:
            archive.extractall(place, filter="data")
    return place / directory


def cost_table(found: dict[str, Costs]) -> Iterator[str]:
    """Ratios of suites, a row each."""
    yield "| suite | tests | plain | cold | warm | testmon, first | testmon, again | kB a test |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, costs in found.items():
        times = {way: statistics.median(each.cpu) for way, each in costs.times.items()}
        plain = times["plain"]
        ratios = [
            f"{times[way] / plain:.2f}" if way in times else "fails"
            for way in ("cold", "warm", "testmon cold", "testmon warm")
        ]
        size = f"{costs.bytes / max(costs.tests, 1) / 1000:.1f}"
        yield f"| {name} | {costs.tests} | {plain:.2f} s | {' | '.join(ratios)} | {size} |"


def suites(rounds: int) -> Iterator[str]:
    """Real suites and made ones, beside plain pytest and testmon."""
    found = {
        name: costs_of(str(unpacked(requirement, directory)), arguments, rounds, testmon=True)
        for name, (requirement, directory, arguments) in SUITES.items()
    }
    found["1,000 tests that write a file"] = costs_of("writing:1000", [], rounds, testmon=True)
    yield "Whole runs, as multiples of plain pytest's processor time (`plain`)."
    yield ""
    yield from cost_table(found)


def growth(rounds: int) -> Iterator[str]:
    """Empty tests: all that is measured is what a test costs us."""
    found = {
        f"{number:,} empty tests": costs_of(f"empty:{number}", [], rounds, testmon=number < 50_000)
        for number in (1_000, 10_000, 50_000)
    }
    yield "Suites of empty tests: the worst case, where there is nothing to save."
    yield ""
    yield from cost_table(found)


def call_costs(rounds: int) -> Iterator[str]:
    """A hit and a miss of a small value in one process."""
    yield "A call that adds one, in one process, in microseconds of processor time."
    yield ""
    yield "| | hit | miss |"
    yield "|---|---|---|"
    for name, (hit, miss) in calls().items():
        yield f"| {name} | {hit:.0f} | {miss:.0f} |"


def _processor(command: list[str], directory: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, cwd=directory, env=environ, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_up(rounds: int) -> Iterator[str]:
    """A fresh process that imports, opens a cache, and takes one hit from it."""
    yield "A fresh process that imports, opens a cache and takes one hit, in milliseconds."
    yield ""
    yield "| | processor time |"
    yield "|---|---|"
    with tempfile.TemporaryDirectory() as place:
        times: dict[str, list[float]] = {name: [] for name in _FRESH}
        for _ in range(3 * rounds + 1):
            for name, (prelude, body) in _FRESH.items():
                script = Path(place, "script.py")
                script.write_text(_HIT.format(prelude=prelude, body=body, place=place))
                times[name].append(_processor([sys.executable, str(script)], place))
    for name, each in times.items():
        yield f"| {name} | {statistics.median(each[1:]) * 1000:.0f} |"


SECTIONS: dict[str, Callable[[int], Iterator[str]]] = {
    "calls": call_costs,
    "start-up": start_up,
    "suites": suites,
    "growth": growth,
}


def main() -> None:
    """Measures, prints, and writes the section of this Python."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    day = time.strftime("%Y-%m-%d")
    lines = [
        f"## Python {version}",
        "",
        f"{platform.system()} on {platform.machine()}, {day}, {options.rounds} rounds.",
    ]
    for name in options.only:
        lines += ["", *SECTIONS[name](options.rounds)]
        print("\n".join(lines[-12:]), flush=True)
    before, *sections = re.split(r"(?m)^(?=## Python )", PAGE.read_text())
    others = [each for each in sections if not each.startswith(f"## Python {version}\n")]
    written = sorted([*others, "\n".join(lines) + "\n\n"])
    PAGE.write_text((before + "".join(written)).rstrip() + "\n")


if __name__ == "__main__":
    main()
