"""One analysis a content: what counts of it, how it is kept, and that nothing breaks it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from edited_projects import analysed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pytest_taskcache
from pytest_taskcache.code.definitions import (
    FORMAT,
    Analysis,
    DefinitionKind,
    Import,
    definition_name,
    diff,
)
from pytest_taskcache.code.mentions import ALWAYS_LOADED
from pytest_taskcache.code.source_file import analyse
from pytest_taskcache.code.syntax import normalised_text

_OURS = sorted(Path(pytest_taskcache.__file__).parent.rglob("*.py"))


def changed(before: str, after: str) -> set[str]:
    """The labels of the definitions that differ."""
    found = diff(analysed("m.py", before), analysed("m.py", after))
    return {str(item) for item in found}


def test_worked_example() -> None:
    """As told at the top of the module."""
    found = analysed(
        "m.py",
        """
        from rates import RATE
        def price(x, by=RATE):
            return x * by * factor()
        class Box(Base):
            limit = 5
            def size(self):
                self.seen = self.limit
        """,
    ).by_name
    assert list(found) == [
        *("RATE=", "price()", "price", "Box:", "Box.limit=", "Box.size()", "Box.size")
    ]
    assert found["RATE="].kind is DefinitionKind.IMPORT
    assert found["price()"].mentions == {"RATE", "=RATE"}
    assert found["price"].mentions == {"factor"}
    assert found["Box:"].mentions == {"Base"}
    assert {"limit", "Box"} <= set(found["Box.limit="].binds)
    assert {"limit", "Box"} <= found["Box.size"].mentions
    assert ".seen" in found["Box.size"].stores


@pytest.mark.parametrize(
    ("before", "after", "labels"),
    [
        ("def f():\n  return 1\n", "# why\ndef f( ):\n\n    return (1)  # one\n", set()),
        ("def f():\n  return 1\n", "def f():\n  return 2\n", {"f changed"}),
        ("def f(x=1): pass\n", "def f(x=2): pass\n", {"f changed"}),
        ("def f():\n  'a'\n", "def f():\n  'b'\n", {"f changed"}),
        ("def f():\n  return 1\n", "def f():\n  return True\n", {"f changed"}),
        ("X = 1\nY = 2\n", "X = 1\nY = 3\n", {"Y changed"}),
        ("X = 'a'\n", "X = b'a'\n", {"X changed"}),
        ("import a, b\n", "import a, c\n", {"b vanished", "c appeared"}),
        ("class C:\n  x = 1\n  y = 2\n", "class C:\n  x = 3\n  y = 2\n", {"C.x changed"}),
        ("class C(A): x = 1\n", "class C(B): x = 1\n", {"C changed"}),
        (
            "def f():\n  def g():\n    return 1\n  return g\n",
            "def f():\n  def g():\n    return 2\n  return g\n",
            {"f.<locals>.g changed"},
        ),
        (
            "def f():\n  return [x for x in (lambda: 1)()]\n",
            "def f():\n  return [x for x in (lambda: 2)()]\n",
            {"f changed"},
        ),
        (
            "if A:\n  X = 1\n  Y = 1\n",
            "if B:\n  X = 1\n  Y = 1\n",
            {"X changed", "Y changed", "#effects changed"},
        ),
    ],
)
def test_what_an_edit_changes(before, after, labels) -> None:
    """Each edit changes just the definitions that it is in; comments and formatting none."""
    assert changed(before, after) == labels


def test_order_of_what_acts_on_others_counts() -> None:
    """Two calls at module level in another order are another module."""
    one, two = "import a\na.f()\nimport b\nX = b.g()\n", "import b\nX = b.g()\nimport a\na.f()\n"
    assert "X changed" in changed(one, two)


@pytest.mark.parametrize(
    ("parts", "labels"),
    [
        (("def f(): pass\n", "def g(x: int = 1): pass\n"), set()),
        (("import json\n", "RATE = 2\n"), set()),
        (("class A(Exception): pass\n", "def f(): pass\n"), set()),
        (("def f(): pass\n", "X = f()\n"), {"f changed", "X changed"}),
        (("def f(): pass\n", "@f\ndef g(): pass\n"), {"f changed", "g changed"}),
        (("import math\n", "X = math.pi\n"), {"math changed", "X changed"}),
        (("class A: pass\n", "def f(a: A): pass\n"), {"A changed", "f changed"}),
        (("from a import f\n", "def f(): pass\n"), {"f changed"}),
        (
            ("class A:\n  def f(self): pass\n", "  def g(self): pass\n"),
            {"A.f changed", "A.g changed"},
        ),
    ],
)
def test_what_a_move_changes(parts, labels) -> None:
    """Who looks at all of a module sees any; else one counts where one part may need the other,
    and in a class."""
    head, _, first = parts[0].rpartition(":\n")
    head = head and head + ":\n"
    assert changed("".join(parts), head + parts[1] + first) == {"#order changed"} | labels
    future = "from __future__ import annotations\n"
    if "(a: A)" in parts[1]:
        assert changed(future + "".join(parts), future + parts[1] + first) == {"#order changed"}


def test_text_gives_the_analysis_back_and_takes_half_as_much_as_the_source() -> None:
    """What is kept between sessions, compressed, is all of it, and smaller than the sources."""
    sources = kept = 0
    for path in _OURS[::7]:
        content = path.read_bytes()
        found = analyse(content)
        text = found.to_text()
        assert Analysis.from_text(text) == found
        sources, kept = sources + len(content), kept + len(zlib.compress(text.encode(), 1))
    assert kept < sources / 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '["0"]', f'["{FORMAT}"]', f'["{FORMAT}", [[]], [], []]']
)
def test_a_text_that_is_no_analysis_is_refused(text) -> None:
    """Damage is an error of one kind, whatever it is."""
    with pytest.raises(ValueError, match=r"\w"):
        Analysis.from_text(text)


def test_a_text_of_another_version_is_refused() -> None:
    """Syntax trees of different Pythons have different digests."""
    found = json.loads(analyse(b"x = 1\n").to_text())
    found[0] = "1 2.7"
    with pytest.raises(ValueError, match="version"):
        Analysis.from_text(json.dumps(found))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")))
@example(b"(" * 5000)
@example(b"x = " + b"-" * 20000 + b"1\n")
@example(b"# coding: nonsense\nx = 1\n")
@example(b"\x00")
@example(b"def f():\n  return '\\ud800'\n")
@example(f"A = {10**4000}\nB = 1e999\nC = 1j\nD = ...\nE = {'+'.join(['1'] * 900)}\n".encode())
def test_no_content_breaks_the_analysis(content) -> None:
    """Whatever a file holds, it has an analysis, which can be kept and compared."""
    found = analyse(content)
    assert Analysis.from_text(found.to_text()) == found
    assert not diff(found, analyse(content))
    assert diff(found, analyse(content + b"\nnew_name = 1\n"))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        *(("1", "True"), ("1", "1.0"), ("'1'", "1"), ("b'a'", "'a'"), ("(1,)", "1")),
        *(("[1, 2]", "[[1], 2]"), ("f(a, b)", "f((a, b))"), ("f(a, 'b')", "f(a.b)")),
        *(("a.b.c", "a.b"), ("None", "'None'"), ("not a", "-a"), ("a < b < c", "a < (b < c)")),
        *(("lambda x: x", "lambda x: (x, )"), ("{1: 2}", "{1, 2}"), ("f(*a)", "f(a)")),
        *(("f'{a}'", "f'{a!r}'"), ("f'{a:1}'", "f'{a:2}'"), ("[x for x in a]", "{x for x in a}")),
        *(
            ("a if b else c", "b if a else c"),
            ("x[1:2]", "x[1, 2]"),
            ("lambda x: 1", "lambda *x: 1"),
        ),
        *(("lambda x, y=1: 1", "lambda x=1, *, y: 1"), ("f(x=1)", "f(y=1)"), ("-0.0", "0.0")),
    ],
)
def test_different_trees_have_different_texts(one, two) -> None:
    """Neither text of a tree loses what tells two expressions apart."""
    assert changed(f"X = {one}\n", f"X = {two}\n")
    trees = [ast.parse(text, mode="eval").body for text in (one, two)]
    assert normalised_text(trees[0]) != normalised_text(trees[1])


def test_nameless_code_belongs_to_what_is_around_it() -> None:
    """Lambdas, comprehensions and scopes of type parameters count as the function around them."""
    assert definition_name("f") == "f"
    assert definition_name("C.m.<locals>.g.<locals>.<lambda>") == "C.m.<locals>.g"
    assert definition_name("f.<locals>.<lambda>.<locals>.<genexpr>") == "f"
    assert definition_name("<generic parameters of f>.<locals>.f") == "f"
    assert definition_name("<lambda>") == definition_name("C.<lambda>") == "<lambda>"
    assert definition_name("<module>") == "<module>"


def test_imports_are_told_with_what_they_are_inside_of() -> None:
    """Relative ones, star imports, and those of functions."""
    found = analysed(
        "m.py", "import a.b\nfrom ..c import d, e\nfrom f import *\ndef g():\n  import h\n"
    )
    assert set(found.imports) == {
        Import(0, "a.b", ()),
        Import(2, "c", ("d", "e")),
        Import(0, "f", ("*",)),
        Import(0, "h", ()),
    }


def test_what_is_taken_for_loaded_is_loaded_wherever_the_cache_is() -> None:
    """An edit of an import of these makes no module appear in, or vanish from, ``sys.modules``."""
    asked = "import json, sys, pytest_taskcache.config.factory; print(json.dumps([*sys.modules]))"
    found = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True)
    assert {*json.loads(found.stdout)} >= ALWAYS_LOADED
