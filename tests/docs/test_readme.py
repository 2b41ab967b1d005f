"""What the README shows works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from projects import Project

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_three_faces_work_as_shown(project: Project) -> None:
    """The example runs as it stands, and a second run reuses what it made."""
    found = re.search(
        r"<!-- tested: test_readme -->\n```python\n(.*?)```", README.read_text(), re.S
    )
    assert found is not None
    project.write("test_example.py", found.group(1))
    project.run().assert_outcomes(passed=2)
    second = project.run()
    second.assert_outcomes(passed=2)
    second.stdout.fnmatch_lines(["taskcache: *1 fixture + 1 test reused*"])


def test_every_linked_document_exists() -> None:
    """No link of the README leads nowhere, and each is whole: the package's page on the index has
    no files beside it."""
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    source = f"{project['urls']['Source']}/blob/main/"
    targets = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert len(targets) > 10
    for target in targets:
        if not target.startswith("#"):
            assert target.startswith(source), target
            assert (README.parent / target.removeprefix(source)).exists(), target
