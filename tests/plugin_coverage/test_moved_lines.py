"""Lines are found again exactly where their function's text is the same."""

from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from pytest_taskcache.plugin.coverage_keeping import moved_lines

TEXT = textwrap.dedent("""
    import os

    @staticmethod
    def first(a):
        return a

    class Both:
        @property
        def value(self):
            return 1

        @value.setter
        def value(self, new):
            def inner():
                return new
            return inner

    if os.name:
        def first(a):
            return a
""").lstrip()


def moved(before: str, now: str) -> dict[int, int]:
    return moved_lines(before.encode(), now.encode())


@given(st.lists(st.integers(0, len(TEXT.splitlines()) - 1), max_size=4))
def test_blank_lines_between_functions_move_them(places: list[int]) -> None:
    """Whatever is inserted: a line that is told has the same text, and so has its function."""
    lines = TEXT.splitlines()
    now = list(lines)
    for place in sorted(places, reverse=True):
        now.insert(place, "# a comment")
    for number, other in moved(TEXT, "\n".join(now)).items():
        assert now[other - 1] == lines[number - 1]


def test_a_move_of_everything_is_followed() -> None:
    """Two comments on top: all functions are found two lines further down."""
    found = moved(TEXT, "# one\n# two\n" + TEXT)
    assert [found[number] for number in (3, 4, 5, 9, 10, 13, 15)] == [5, 6, 7, 11, 12, 15, 17]
    assert 1 not in found, "what is in no function is part of the import"


def test_a_changed_function_is_not_guessed() -> None:
    """Nor is one of two that cannot be told apart once there is another of them."""
    changed = moved(TEXT, TEXT.replace("return 1", "return 2"))
    assert 10 not in changed
    assert changed[15] == 15
    twins = "def f():\n    pass\n\ndef f():\n    pass\n"
    assert moved(twins, "\n" + twins)[4] == 5
    assert 1 not in moved(twins, twins + "\ndef f():\n    pass\n")


def test_in_text_that_is_no_python_nothing_is_found() -> None:
    """A syntax error, null bytes: no lines, no crash."""
    assert moved("def f(:", TEXT) == moved(TEXT, "\0") == {}
