"""Lines are found again exactly where their function's text is the same."""

from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from pytest_taskcache.plugin.covered_source import Relocation, layout_of

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


def relocation(before: str, now: str) -> Relocation:
    old, new = layout_of(before.encode()), layout_of(now.encode())
    assert old is not None
    assert new is not None
    return Relocation(old.blocks, new.blocks)


@given(st.lists(st.integers(0, len(TEXT.splitlines()) - 1), max_size=4))
def test_blank_lines_between_functions_move_them(places: list[int]) -> None:
    """Whatever is inserted: a line that is told has the same text, and so has its function."""
    lines = TEXT.splitlines()
    now = list(lines)
    for place in sorted(places, reverse=True):
        now.insert(place, "# a comment")
    found = relocation(TEXT, "\n".join(now))
    for number, text in enumerate(lines, 1):
        moved = found.line(number)
        if moved is not None:
            assert now[moved - 1] == text
            assert found.line(-number) == -moved


def test_a_move_of_everything_is_followed() -> None:
    """Two comments on top: all functions are found two lines further down."""
    found = relocation(TEXT, "# one\n# two\n" + TEXT)
    assert [found.line(number) for number in (3, 4, 5, 9, 10, 13, 15)] == [5, 6, 7, 11, 12, 15, 17]
    assert found.line(1) is None, "what is in no function is part of the import"


def test_a_changed_function_is_not_guessed() -> None:
    """Nor is one of two that cannot be told apart once there is another of them."""
    changed = relocation(TEXT, TEXT.replace("return 1", "return 2"))
    assert changed.line(10) is None
    assert changed.line(15) == 15
    twins = "def f():\n    pass\n\ndef f():\n    pass\n"
    assert relocation(twins, "\n" + twins).line(4) == 5
    assert relocation(twins, twins + "\ndef f():\n    pass\n").line(1) is None


def test_text_that_is_no_python_has_no_layout() -> None:
    """A syntax error, null bytes: no layout, no crash."""
    assert layout_of(b"def f(:") is None
    assert layout_of(b"\0") is None
