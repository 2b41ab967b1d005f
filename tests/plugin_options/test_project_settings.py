"""Settings in ``[tool.taskcache]`` of pyproject.toml, and defaults as ini settings."""

from __future__ import annotations

import pytest
from projects import Project

SUITE = """
    from fractions import Fraction
    from counter import count
    from pytest_taskcache import cached

    @cached
    def pair():
        count("pair")
        return Fraction(1, 2)  # no JSON

    def test_it():
        assert pair() == pair()
"""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", '[tool.taskcache]\nserializer = "json"\n'),
        ("pytest.ini", "[pytest]\ntaskcache_serializer = json\n"),
    ],
)
def test_a_default_serializer(project: Project, file: str, text: str) -> None:
    """Functions that name none get it: what it cannot write is not kept."""
    project.write("test_suite.py", SUITE)
    project.write(file, text)
    project.run().assert_outcomes(passed=1)
    assert project.counted() == 2


def test_stronger_sources_win(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line, variable, ini file, pyproject.toml."""
    project.write("test_suite.py", SUITE)
    project.write("pyproject.toml", '[tool.taskcache]\nserializer = "json"\n')
    monkeypatch.setenv("PYTEST_TASKCACHE_SERIALIZER", "pickle")
    project.run().assert_outcomes(passed=1)
    assert project.counted() == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("mood = 'rw'", "tool.taskcache.mood: there is no such setting; use one of mode"),
        ("mode = 'rx'", "tool.taskcache.mode: 'rx' cannot be used; use one of rw"),
        ("max_size = [1]", "tool.taskcache.max_size: [[]1] cannot be used; write a text"),
        ("serializer = 'xml'", "tool.taskcache.serializer: 'xml' cannot be used; *pickle"),
        ("expiration = '0d'", "tool.taskcache.expiration: '0d' cannot be used; write a positive"),
        ("tests_max_age = '0h'", "tool.taskcache.tests_max_age: '0h' cannot be used"),
        ("commit = 'NEVER'", "tool.taskcache.commit: 'NEVER' cannot be used; use one of LAZY"),
    ],
)
def test_what_cannot_work_is_told_where_it_stands(project: Project, line: str, told: str) -> None:
    """With the remedy; the run does not begin."""
    project.write("pyproject.toml", f"[tool.taskcache]\n{line}\n")
    project.write("test_suite.py", "def test_it(): pass\n")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{told}*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_several_patterns_to_refresh(project: Project, workers: tuple[str, ...]) -> None:
    """Each time the option is given; one that names nothing is told."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached

        @cached
        def left():
            count("left")

        @cached
        def right():
            count("right")

        @cached
        def other():
            count("other")

        def test_it():
            left(), other()

        def test_that():
            right()
        """,
    )
    project.run().assert_outcomes(passed=2)
    patterns = [f"--cache-refresh-only={each}" for each in ("*::left", "right", "rihgt")]
    result = project.run(*patterns, *workers)
    result.assert_outcomes(passed=2)
    assert [project.counted(name) for name in ("left", "right", "other")] == [2, 2, 1]
    told = [line for line in result.outlines if "named nothing" in line]
    assert told == ["taskcache: --cache-refresh-only=rihgt named nothing that was looked up"]
