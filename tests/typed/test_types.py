"""What type checkers make of the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pytest_taskcache

TYPED = Path(__file__).resolve().parents[2] / "typing_tests"


def test_the_public_names_are_those_that_can_be_loaded() -> None:
    """``__all__`` lists exactly what there is, and each is imported for type checkers, too."""
    source = Path(pytest_taskcache.__file__).read_text()
    for name in pytest_taskcache.__all__:
        assert f" {name} as {name}" in source
        assert getattr(pytest_taskcache, name) is not None


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "--no-incremental", "--config-file", ""],
        ["pyright", "--pythonpath", sys.executable],
    ],
    ids=["mypy", "pyright"],
)
def test_types_are_kept(command: list[str], tmp_path: Path) -> None:
    """Decorated functions, methods, coroutines, generators and fixtures keep their types."""
    pytest.importorskip(command[0], reason=f"{command[0]} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", *command, str(TYPED)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
