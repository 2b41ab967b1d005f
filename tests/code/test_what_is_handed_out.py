"""What a function computes and puts into something that outlives it, however it got at that, is
found by whoever looks there later."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from edited_projects import Project

_LIB = """
import contextlib

ROWS = []
TABLE = {"rows": ROWS}

def scale():
    return 2
"""

CASES = {
    "what a function returns": "def get():\n    return ROWS\n"
    "def fill():\n    get().append(scale())",
    "one of what it returns": "def both():\n    return TABLE, ROWS\n"
    "def fill():\n    _, rows = both()\n    rows.append(scale())",
    "an item of what it returns": "def both():\n    return {'a': ROWS}\n"
    "def fill():\n    both()['a'].append(scale())",
    "what it may return": "def one(x=1):\n    return ROWS if x else None\n"
    "def fill():\n    one().append(scale())",
    "what it returns by another name": "def one():\n    rows = ROWS\n    return rows\n"
    "def fill():\n    one().append(scale())",
    "what it awaits": "async def one():\n    return ROWS\n"
    "async def fill():\n    rows = await one()\n    rows.append(scale())",
    "what a generator gives": "def each():\n    yield ROWS\n"
    "def fill():\n    for rows in each():\n        rows.append(scale())",
    "what a context manager gives": "@contextlib.contextmanager\ndef opened():\n    yield ROWS\n"
    "def fill():\n    with opened() as rows:\n        rows.append(scale())",
    "a property": "class Box:\n    @property\n    def rows(self):\n        return ROWS\n"
    "BOX = Box()\ndef fill():\n    BOX.rows.append(scale())",
    "a property of what is new": "class Box:\n    @property\n    def rows(self):\n"
    "        return ROWS\ndef fill():\n    Box().rows.append(scale())",
    "an attribute of what is new": "class Box:\n    def __init__(self):\n        self.rows = ROWS\n"
    "def make():\n    return Box()\ndef fill():\n    make().rows.append(scale())",
    "what an object gives that is called": "class Box:\n    def __call__(self):\n"
    "        return ROWS\nbox = Box()\ndef fill():\n    box().append(scale())",
    "what an object gives by an item": "class Box:\n    def __getitem__(self, key):\n"
    "        return ROWS\ndef fill():\n    Box()['a'].append(scale())",
    "what an object gives by any attribute": "class Box:\n    def __getattr__(self, name):\n"
    "        return ROWS\ndef fill():\n    Box().other.append(scale())",
    "what is in a table": "def fill():\n    for rows in TABLE.values():\n"
    "        rows.append(scale())",
    "one of two names": "def fill():\n    _, rows = TABLE, ROWS\n    rows.append(scale())",
    "each of a list": "def fill():\n    [rows.append(scale()) for rows in [ROWS]]",
    "a lambda's": "def fill():\n    add = lambda value: ROWS.append(value)\n    add(scale())",
    "a default": "def memo(rows=None):\n    rows = rows or ROWS\n    rows.append(scale())\n"
    "def fill():\n    memo()",
}


def _functions(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name


@pytest.mark.parametrize("code", CASES.values(), ids=CASES)
def test_who_looks_there_later_is_found(code: str) -> None:
    text = f"{_LIB}\n{code}\n"
    project = Project(
        {
            "lib.py": text,
            "test_a.py": "import lib\ndef test_a():\n    lib.fill()\n",
            "test_b.py": "import lib\ndef test_b():\n    assert lib.ROWS == [2]\n",
        },
        [
            "test_a.py::test_a",
            *(f"lib.py::{name}" for name in _functions(ast.parse(text).body)),
            "test_b.py::test_b",
        ],
    )
    changes = project.edit("lib.py", "return 2", "return 3")
    assert project.why(changes, "test_b.py::test_b") == "lib.py::scale changed"


@pytest.mark.parametrize("filling", ["STORE.append(random.random())", "STORE.append((yield))"])
def test_what_a_test_brings_about_is_kept_by_a_function_without_parameters(filling: str) -> None:
    """By a seed, a variable, a file, or what it sends: its text does not tell that it says it."""
    project = Project(
        {
            "lib.py": f"import random\nSTORE = []\ndef fill():\n    {filling}\n",
            "test_a.py": "import lib, random\ndef test_a():\n    random.seed(1)\n    lib.fill()\n",
            "test_b.py": "import lib\ndef test_b():\n    assert lib.STORE\n",
        },
        ["test_a.py::test_a", "lib.py::fill", "test_b.py::test_b"],
    )
    changes = project.edit("test_a.py", "seed(1)", "seed(2)")
    assert project.why(changes, "test_b.py::test_b") == "test_a.py::test_a changed"


def test_who_lists_a_module_that_a_variable_holds_finds_what_is_new_in_it() -> None:
    project = Project(
        {
            "plug.py": "def one():\n    return 1\n",
            "lib.py": "import sys\nfrom plug import one as _one\n"
            "PLUGIN = sys.modules[_one.__module__]\n"
            "def names():\n    return dir(PLUGIN)\n",
            "test_b.py": "import lib\ndef test_b():\n    assert lib.names()\n",
        },
        ["lib.py::names", "test_b.py::test_b"],
    )
    changes = project.edit("plug.py", "", "def two():\n    return 2\n")
    assert project.why(changes, "test_b.py::test_b", "lib.py::names") == "plug.py::two appeared"


KEEPING = {
    "an attribute of an object": ("lib.py", "HOLDER.rows = x", "lib.HOLDER.rows"),
    "an attribute of a class": ("lib.py", "Holder.rows = x", "lib.Holder.rows"),
    "an attribute of one's class": ("lib.py", "Holder.hold(x)", "lib.Holder.rows"),
    "a local name": ("lib.py", "box = HOLDER; box.rows = x", "lib.HOLDER.rows"),
    "a name of another module": ("other.py", "lib.LIMIT = x", "lib.LIMIT"),
    "a list of another module": ("other.py", "lib.ROWS.append(x)", "lib.ROWS"),
    "an imported list": ("other.py", "ROWS.append(x)", "lib.ROWS"),
    "an item of an imported list": ("other.py", "ROWS[0] = x", "lib.ROWS"),
    "an attribute of an imported object": ("other.py", "HOLDER.rows = x", "lib.HOLDER.rows"),
}


@pytest.mark.parametrize(("file", "keeping", "read"), KEEPING.values(), ids=KEEPING)
def test_what_a_test_gives_is_kept(file: str, keeping: str, read: str) -> None:
    lib = (
        "LIMIT = 5\nROWS = [0]\nclass Holder:\n    rows = 0\n    @classmethod\n"
        "    def hold(cls, x):\n        cls.rows = x\nHOLDER = Holder()\n"
    )
    files = {"lib.py": lib, "other.py": "import lib\nfrom lib import HOLDER, ROWS\n"}
    files[file] += f"def put(x):\n    {keeping}\n"
    module = file.removesuffix(".py")
    project = Project(
        {
            **files,
            "test_a.py": f"import {module}\ndef test_a():\n    {module}.put(1)\n",
            "test_b.py": f"import lib\ndef test_b():\n    assert {read}\n",
        },
        ["test_a.py::test_a", f"{file}::put", "lib.py::Holder.hold", "test_b.py::test_b"],
    )
    changes = project.edit("test_a.py", "put(1)", "put(2)")
    assert project.why(changes, "test_b.py::test_b") == "test_a.py::test_a changed"


@pytest.mark.parametrize(
    "lib",
    [
        "ROWS = None\ndef begin():\n    global ROWS\n    ROWS = []\n",
        "ROWS = ()\ndef begin():\n    global ROWS\n    ROWS = []\n",
        "ROWS = ()\nROWS = []\ndef begin():\n    pass\n",
        "ROWS = None\ndef begin():\n    pass\n",  # others put something there
    ],
)
def test_a_global_that_was_empty_at_first_is_filled(lib: str) -> None:
    lib += "def scale():\n    return 2\ndef put():\n    ROWS.append(scale())\n"
    project = Project(
        {
            "lib.py": lib,
            "conftest.py": "import lib\ndef fill():\n    lib.ROWS = []\n",
            "test_0.py": "import lib\ndef test_0():\n    lib.begin()\n",
            "test_a.py": "import lib\ndef test_a():\n    lib.put()\n",
            "test_b.py": "import lib\ndef test_b():\n    assert lib.ROWS == [2]\n",
        },
        [
            *("conftest.py::fill", "test_0.py::test_0", "lib.py::begin", "test_a.py::test_a"),
            *("lib.py::put", "lib.py::scale", "test_b.py::test_b"),
        ],
    )
    changes = project.edit("lib.py", "return 2", "return 3")
    assert project.why(changes, "test_b.py::test_b") == "lib.py::scale changed"


FIXED = {
    "a text that was read": "with open(__file__) as f:\n    DATA = f.read().strip()\n",
    "a text by a path": "DATA = (Path(__file__).parent / 'x').read_text()\n",
    "a path": "HERE = Path(__file__).parent\nDATA = HERE.joinpath('x')\n",
    "a path as text": "DATA = os.path.join(os.path.dirname(__file__), 'x')\n",
    "a variable": "DATA = os.environ.get('X', 'y').upper()\n",
    "a mark": "DATA = object()\n",
}


@pytest.mark.parametrize("data", FIXED.values(), ids=FIXED)
def test_what_is_given_something_that_cannot_change_changes_nothing(data: str) -> None:
    project = Project(
        {
            "lib.py": f"import os, sys\nfrom pathlib import Path\n{data}"
            "def use():\n    execute(DATA)\ndef other():\n    return DATA\n",
            "test_a.py": "import lib\ndef test_a():\n    lib.use()\n",
            "test_b.py": "import lib\ndef test_b():\n    lib.other()\n",
        },
        ["test_a.py::test_a", "lib.py::use", "lib.py::other", "test_b.py::test_b"],
    )
    changes = project.edit("test_a.py", "lib.use()", "lib.use() or 1")
    assert project.why(changes, "test_b.py::test_b") == ""


@pytest.mark.parametrize(("attribute", "why"), [("__module__", ""), ("rows", "changed")])
def test_who_makes_a_class_hands_out_no_name_of_its_module(attribute: str, why: str) -> None:
    project = Project(
        {
            "lib.py": "import sys\ndef make():\n    class Mark:\n        pass\n"
            "    frame = sys._getframe(1)\n    given = frame.f_globals.get('__name__')\n"
            f"    Mark.{attribute} = given\n    return Mark()\n"
            "MARK = make()\ndef use():\n    execute(MARK)\n",
            "test_a.py": "import lib\ndef test_a():\n    lib.use()\n",
            "test_b.py": "import lib\ndef test_b():\n    lib.make()\n",
        },
        ["lib.py::make", "test_a.py::test_a", "lib.py::use", "test_b.py::test_b"],
    )
    changes = project.edit("test_a.py", "lib.use()", "lib.use() or 1")
    assert project.why(changes, "test_b.py::test_b") == (why and f"test_a.py::test_a {why}")


@pytest.mark.parametrize("data", [*FIXED.values(), "DATA = 5\n"], ids=[*FIXED, "a number"])
@pytest.mark.parametrize(
    "edit", [("conftest.py", "return 2", "return 3"), ("test_a.py", "1)", "2)")]
)
def test_what_cannot_change_can_where_another_module_binds_it(
    data: str, edit: tuple[str, str, str]
) -> None:
    project = Project(
        {
            "lib.py": f"import os\nfrom pathlib import Path\n{data}"
            "def use(x):\n    execute(DATA, x)\n",
            "conftest.py": "import lib\ndef two():\n    return 2\n"
            "def fill():\n    lib.DATA = []\n    lib.use(two())\n",
            "test_a.py": "import lib\ndef test_a():\n    lib.use(1)\n",
            "test_b.py": "import lib\ndef test_b():\n    assert lib.DATA\n",
        },
        [
            *("conftest.py::fill", "conftest.py::two", "test_a.py::test_a", "lib.py::use"),
            "test_b.py::test_b",
        ],
    )
    assert project.why(project.edit(*edit), "test_b.py::test_b")


def test_a_variable_or_else_a_list_may_change() -> None:
    lib = "import os\nDATA = os.environ.get('X', [])\ndef put():\n    DATA.append(scale())\n"
    project = Project(
        {
            "lib.py": lib + "def scale():\n    return 2\n",
            "test_b.py": "import lib\ndef test_b():\n    assert lib.DATA\n",
        },
        ["lib.py::put", "lib.py::scale", "test_b.py::test_b"],
    )
    changes = project.edit("lib.py", "return 2", "return 3")
    assert project.why(changes, "test_b.py::test_b") == "lib.py::scale changed"


@pytest.mark.parametrize(
    ("putting", "why"),
    [
        ("globals()[name] = 1", ""),
        ("globals()[name] += 1", "lib.py::other changed"),
        ("globals().update(x=globals()[name])", "lib.py::other changed"),
    ],
)
def test_to_put_something_into_a_module_asks_for_nothing_of_it(putting: str, why: str) -> None:
    project = Project(
        {
            "lib.py": f"def other():\n    return 2\ndef put(name):\n    {putting}\n",
            "test_b.py": "import lib\ndef test_b():\n    lib.put('x')\n",
        },
        ["lib.py::other", "lib.py::put", "test_b.py::test_b"],
    )
    assert project.why(project.edit("lib.py", "return 2", "return 3"), "test_b.py::test_b") == why
