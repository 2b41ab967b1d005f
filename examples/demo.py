"""`make demo`: the same tests cold, warm, and after one edit of a helper.

The project under `library/` is copied to a scratch directory, so that the edit harms nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = HERE.parent / ".demo"


def main() -> int:
    shutil.rmtree(PLACE, ignore_errors=True)
    project = PLACE / "library"
    shutil.copytree(HERE / "library", project, ignore=shutil.ignore_patterns("__pycache__"))
    print("A full-text index, a language model and a directory tree, each made of Python's own")
    print("standard library by an expensive session fixture, and tests that use them.\n")
    cold, _ = run(project, "cold", "nothing is cached yet")
    warm, _ = run(project, "warm", "nothing has changed")
    helper = project / "words.py"
    text = helper.read_text(encoding="utf-8")
    helper.write_text(text.replace("[a-z]+", "[a-z_]+"), encoding="utf-8")
    edited, _ = run(
        project, "edit", "a function of words.py was edited: only the language model uses it"
    )
    print(f"\ncold {cold:.1f} s, warm {warm:.1f} s ({cold / warm:.0f} times faster), ", end="")
    print(f"after one edit {edited:.1f} s")
    return 0


def run(project: Path, title: str, why: str) -> tuple[float, str]:
    """Runs the project's tests; seconds, and what the plugin said. Exits if they fail."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-v", "--no-header", "-p", "no:randomly"]
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        print(done.stdout, done.stderr)
        raise SystemExit(f"the {title} run failed")
    said = [line for line in done.stdout.splitlines() if line.startswith("taskcache:")]
    print(f"{title} {seconds:5.1f} s   {why}")
    for line in said:
        print(f"              {line}")
    return seconds, "\n".join(said)


if __name__ == "__main__":
    raise SystemExit(main())
