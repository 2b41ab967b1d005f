"""Every code block of the documentation site is executed: each page is a small project.

A block with ``title="name"`` is a file, written when it is reached. A ``console`` block is what a
terminal shows: lines that begin with ``$`` are run by a shell, and the lines below must come out,
in that order; ``...`` stands for any lines. How long something took, how large it was, or how many
records there were (a file's collection may be one, too), is not compared.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(
    page
    for page in (*DOCS.glob("*.md"), *DOCS.glob("howto/*.md"))
    if page.stem
    not in ("house", "observation", "prefect", "releasing", "security", "shared-storage")
)
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.S | re.M)
_AMOUNT = re.compile(r"\d+(\.\d+)?( ?(s|min|ms|kB|MB|GB|B|records?|results?)\b)")
OURS = "pytest_taskcache.plugin"
_NEEDED = {"async": ("pytest_asyncio.plugin",), "xdist": ("xdist.plugin",)}
"""Plugins that pages use; loading all that are installed would take longer than the pages."""

_NOT_RUN = frozenset({"yaml", "text", "toml"})


def _environment(page: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV", "COLUMNS"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": " ".join(f"-p {name}" for name in (OURS, *_NEEDED.get(page, ()))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
    }


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the lines that it shows."""
    command, shown = "", list[str]()
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line[2:], []
        elif line.strip():
            shown.append(line)
    yield command, shown


def _plain(line: str) -> str:
    return " ".join(_AMOUNT.sub("#", line).strip(" =").split())


def _missing(out: str, shown: list[str]) -> str:
    """The first line that is shown and did not come out; "" if there is none."""
    lines = iter(_plain(line) for line in out.splitlines())
    for wanted in shown:
        if wanted.strip() == "...":
            continue
        if not any(line == _plain(wanted) for line in lines):
            return wanted
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Files are written, commands run, and what is shown comes out."""
    for language, title, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if title:
            path = tmp_path / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "documented"})
        elif language == "console":
            for command, shown in _commands(text):
                done = subprocess.run(
                    ["sh", "-c", command],
                    cwd=tmp_path,
                    env=_environment(page.stem),
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                out = f"{done.stdout}\n{done.stderr}"
                assert not _missing(out, shown), f"$ {command}\n{out}"
        else:
            assert language in _NOT_RUN, f"nobody runs {language}"


def test_every_link_between_pages_leads_somewhere() -> None:
    """Links to pages and files of the site."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("reference/", "../reference/")):  # made when it is built
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_house_is_as_it_is_said_to_be() -> None:
    """Each file that the tour names is there, and functions are as short as CONTRIBUTING says."""
    files = {str(path): path for path in (DOCS.parent / "pytest_taskcache").rglob("*.py")}
    for name in re.findall(r"`([\w/]+\.py)`", (DOCS / "house.md").read_text(encoding="utf-8")):
        assert any(path.endswith(f"/{name}") for path in files), name
    for path in files.values():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines < 50, f"{path.name}::{node.name} has {lines} lines"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """``make docs``: pages, reference and links; every setting and verb is in the reference."""
    pytest.importorskip("material", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=DOCS.parent,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "reference/settings.html").read_text()
    assert "taskcache_tests_max_age" in settings
    assert "--cache-explain-of" in settings
    assert "taskcache prune" in (tmp_path / "reference/command.html").read_text()
    assert "register_hasher" in (tmp_path / "reference/api.html").read_text()
