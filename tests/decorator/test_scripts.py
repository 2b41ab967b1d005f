"""A script that has loaded its modules by the time it opens a cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """\
import other
import used
from pytest_taskcache import Cache, cached

@cached
def function():
    print("ran")
    return used.LIMIT

with Cache("cache", root="."):
    function()
"""


def _ran(root: Path) -> bool:
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return bool(done.stdout)


def test_what_a_function_does_not_use_does_not_count(tmp_path: Path) -> None:
    """Other statements and classes of what is loaded."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "used.py").write_text("LIMIT = 1\n")
    (tmp_path / "other.py").write_text("OTHER = 1\nclass Kind:\n    size = 1\n")
    assert _ran(tmp_path)
    assert not _ran(tmp_path)
    (tmp_path / "other.py").write_text("OTHER = 22\nclass Kind:\n    size = 22\n")
    assert not _ran(tmp_path)
    (tmp_path / "used.py").write_text("LIMIT = 22\n")
    assert _ran(tmp_path)
