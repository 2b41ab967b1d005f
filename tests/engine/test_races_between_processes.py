"""Eight processes, a hundred keys, one directory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

WORKER = Path(__file__).with_name("race_worker.py")


def test_eight_processes_hundred_rounds(tmp_path):
    """Exactly one computation of each key, and no torn value."""
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                str(WORKER),
                str(tmp_path / "cache"),
                str(tmp_path / f"ready{number}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    computed: Counter[str] = Counter()
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("ready*"))) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "go").touch()
        for worker in workers:
            out, err = worker.communicate(timeout=120)
            assert (err, worker.returncode) == ("", 0)
            computed.update(out.split())
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert computed == Counter({str(number): 1 for number in range(100)})
