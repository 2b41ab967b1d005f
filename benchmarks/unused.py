"""What the plugin costs where it is installed but unused: as ratios, in one run.

    python benchmarks/unused.py [TESTS] [ROUNDS]      (with the package installed)

Runs of an empty suite with the plugin and without it (``-p no:taskcache``) take turns, so that
what else the machine does falls on both; the ratio is that of the medians of processor time
(user and system), the wall clock beside it. The bars: 1.02 for the suite, 15 ms for the import.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def measure(command: list[str], directory: Path) -> tuple[float, float]:
    """Processor and wall-clock seconds of one run. Raises CalledProcessError."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=directory, env=environ, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def suite(directory: Path, tests: int) -> None:
    """Writes empty tests, a hundred to a file."""
    (directory / "pytest.ini").write_text(
        "[pytest]\naddopts = -q -p no:randomly -p no:asyncio -p no:cacheprovider\n"
    )
    for number in range(tests // 100):
        lines = [f"def test_{n}():\n    pass\n" for n in range(100)]
        (directory / f"test_{number:03}.py").write_text("\n".join(lines))


def main(tests: int, rounds: int) -> None:
    """Prints a line for the suite and one for the import."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        suite(directory, tests)
        plain = [sys.executable, "-m", "pytest", "-p", "no:taskcache"]
        ours = [sys.executable, "-m", "pytest"]
        found: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
        for command in (plain, ours):
            measure(command, directory)  # fills the caches of compiled code
        for number in range(rounds):
            turn = [("plain", plain), ("ours", ours)]
            for label, command in turn if number % 2 else reversed(turn):
                found[label].append(measure(command, directory))
        if any(directory.rglob("index.sqlite3")):
            raise SystemExit("the unused plugin made a cache")
    cpu = {label: statistics.median(each[0] for each in runs) for label, runs in found.items()}
    wall = {label: statistics.median(each[1] for each in runs) for label, runs in found.items()}
    print(
        f"{tests} empty tests: plain {cpu['plain']:.2f} s, with the plugin {cpu['ours']:.2f} s, "
        f"ratio {cpu['ours'] / cpu['plain']:.3f} (wall clock {wall['ours'] / wall['plain']:.3f}; "
        "bar 1.02)"
    )
    imports = [
        float(subprocess.check_output([sys.executable, "-c", IMPORT.format("pytest_taskcache")]))
        for _ in range(max(rounds, 5))
    ]
    print(f"import of pytest_taskcache: {statistics.median(imports) * 1000:.1f} ms (bar 15)")


if __name__ == "__main__":
    main(*(int(each) for each in (*sys.argv[1:3], *("10000", "5")[len(sys.argv) - 1 :])))
