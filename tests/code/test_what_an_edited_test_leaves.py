"""An edited test invalidates those that may see what it leaves behind, and no others."""

from __future__ import annotations

import pytest
from edited_projects import Project

LIB = """
class Box:
    shared = []

    def __init__(self):
        self.seen = []

    def part(self):
        return self.seen

    def of_class(self):
        return self.shared

    @classmethod
    def of_all(cls):
        return cls.shared

BOX = Box()
ROWS = [[]]
TABLE = {"a": []}
LIMIT = 5

def rows():
    return ROWS

def same_rows():
    return rows()

def rows_by_default(given=None):
    given = given or ROWS
    return given

def identity(x):
    return x

def add(x, value):
    x.append(value)

def add_to_rows(value):
    ROWS.append(value)

def limit():
    return LIMIT
"""

LEAVING = {
    "a call": "lib.add_to_rows(1)",
    "what a function returns": "lib.rows().append(1)",
    "the same, imported": "from lib import rows; rows().append(1)",
    "what a function returns of another": "rows = lib.same_rows(); rows.append(1)",
    "what a function returns unless it is given something": "lib.rows_by_default().append(1)",
    "what is handed through": "lib.identity(lib.ROWS).append(1)",
    "what is handed on": "lib.add(lib.ROWS, 1)",
    "another name": "rows = lib.ROWS; lib.add(rows, 1)",
    "an item": "lib.ROWS[0] = 1",
    "a part by get": "x = lib.TABLE.get('a'); x.append(lib.ROWS)",
    "one of two": "rows = lib.ROWS if lib.LIMIT else None; rows.append(1)",
    "one or another": "rows = None or lib.ROWS; rows.append(1)",
    "a tuple": "rows, other = lib.ROWS, 1; rows.append(1)",
    "a list": "[rows, other] = [lib.ROWS, 1]; rows.append(1)",
    "an item of a list": "rows = [lib.ROWS][0]; rows.append(1)",
    "a value of a dictionary": "rows = {'k': lib.ROWS}; rows['k'].append(1)",
    "the rest of a list": "a, *rest = 1, lib.ROWS; rest[0].append(1)",
    "an assignment expression": "(rows := lib.ROWS).append(1)",
    "a comprehension": "[row.append(1) for row in lib.ROWS]",
    "a lambda": "f = lambda: lib.ROWS; f().append(1)",
    "a function inside": "\n    def f():\n        return lib.ROWS\n    f().append(1)",
    "a pattern": "\n    match lib.ROWS:\n        case [*f]:\n            f.append(1)",
    "a bound method": "append = lib.ROWS.append; append(1)",
    "a mapped method": "list(map(lib.ROWS.append, [1]))",
    "an augmented assignment": "rows = lib.ROWS; rows += [1]",
}

NOTHING = {
    "an assertion": "assert lib.limit() == 5",
    "what a function returns, read": "assert lib.rows() is not None",
    "a thing of its own": "box = lib.Box(); box.seen.append(1); lib.add(box.part(), 1)",
    "an attribute of it": "box = lib.Box(); box.limit = 1",
    "a list of its own": "rows = []; rows.append(lib.limit()); lib.add(rows, 1)",
}


def _why(doing: str, read: str) -> str:
    project = Project(
        {
            "lib.py": LIB,
            "test_a.py": f"import lib\ndef test_a():\n    {doing}\n    assert lib.limit() == 5\n",
            "test_b.py": f"import lib\ndef test_b():\n    assert {read}\n",
        },
        [
            "test_a.py::test_a",
            *("lib.py::limit", "lib.py::rows", "lib.py::same_rows", "lib.py::rows_by_default"),
            *("lib.py::identity", "lib.py::add", "lib.py::add_to_rows", "lib.py::Box.__init__"),
            *("lib.py::Box.part", "lib.py::Box.of_class", "lib.py::Box.of_all"),
            *("test_a.py::test_a.<locals>.f", "test_b.py::test_b"),
        ],
    )
    return project.why(project.edit("test_a.py", "== 5", "< 6"), "test_b.py::test_b")


@pytest.mark.parametrize("doing", LEAVING.values(), ids=LEAVING)
def test_what_is_left_in_a_list(doing: str) -> None:
    assert _why(doing, "lib.ROWS == [[]]") == "test_a.py::test_a changed"


@pytest.mark.parametrize(
    ("doing", "read"),
    [
        ("for row in lib.TABLE.values():\n        row.append(1)", "lib.TABLE == {'a': []}"),
        ("for _, row in lib.TABLE.items():\n        row.append(1)", "lib.TABLE == {'a': []}"),
        ("lib.TABLE.setdefault('a', []).append(1)", "lib.TABLE == {'a': []}"),
        ("lib.TABLE.get('a').append(1)", "lib.TABLE == {'a': []}"),
        ("lib.BOX.part().append(1)", "lib.BOX.seen == []"),
        ("lib.Box().of_class().append(1)", "lib.Box.shared == []"),
        ("box = lib.Box(); box.shared.append(1)", "lib.Box.shared == []"),
        ("lib.Box.of_all().append(1)", "lib.Box().shared == []"),
        ("lib.BOX.limit = 1", "vars(lib.BOX)"),
    ],
)
def test_what_is_left_elsewhere(doing: str, read: str) -> None:
    assert _why(doing, read) == "test_a.py::test_a changed"


@pytest.mark.parametrize("read", ["lib.ROWS == [[]]", "lib.BOX.seen == []", "vars(lib.BOX)"])
@pytest.mark.parametrize("doing", NOTHING.values(), ids=NOTHING)
def test_what_leaves_nothing_reaches_nobody(doing: str, read: str) -> None:
    assert _why(doing, read) == ""


def test_what_is_named_like_a_test_and_returns_something_is_one_like_any_other() -> None:
    project = Project(
        {
            "test_data.py": "def test_rows():\n    return [1]\n",
            "test_b.py": "from test_data import test_rows\nROWS = test_rows()\n"
            "def test_b():\n    assert ROWS\n",
        },
        ["test_data.py::test_rows", "test_b.py::test_b"],
    )
    changes = project.edit("test_data.py", "[1]", "[2]")
    assert project.why(changes, "test_b.py::test_b") == "test_data.py::test_rows changed"


def test_a_new_test_leaves_things_to_those_that_run_with_its_file_and_later() -> None:
    reads = "import lib\ndef {}():\n    assert lib.ROWS == [[]]\n"
    names = ("test_a", "test_b", "test_c")
    project = Project(
        {"lib.py": LIB, **{f"{name}.py": reads.format(name) for name in names}},
        [f"{name}.py::{name}" for name in names],
    )
    changes = project.edit("test_b.py", "", "def test_new():\n    lib.ROWS.append(1)\n")
    why = {n: project.why(changes, f"{n}.py::{n}", closed=f"{n}.py::{n}") for n in names}
    new = "test_b.py::test_new appeared"
    assert why == {"test_a": "", "test_b": new, "test_c": new}
