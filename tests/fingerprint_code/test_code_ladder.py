"""Every edit of code that may change an outcome invalidates, and harmless ones do not."""

from __future__ import annotations

import pytest

BASE = {
    "pkg/__init__.py": "",
    "pkg/rates.py": """
        from enum import Enum
        from dataclasses import dataclass
        from functools import lru_cache

        RATE = 3
        TABLE = {"a": 1}

        class Colour(Enum):
            RED = 1

        @dataclass
        class Point:
            x: int = 0

        class Base:
            limit = 5
            def size(self):
                return 1

        class Other(Base):
            pass

        class Middle(Base, object):
            pass

        class Leaf(Middle):
            pass

        def noisy(function):
            def inner(*args):
                return function(*args)
            return inner

        @noisy
        def wrapped(x):
            return x

        @lru_cache
        def cached(x):
            return expensive(x)

        def expensive(x):
            return x * RATE

        def unrelated(x):
            return x - 1

        def default(x=RATE):
            return x

        _state = None

        def lazy():
            global _state
            if _state is None:
                _state = build()
            return _state

        def build():
            return 7

        def indirect(name):
            return globals()[name]()

        class Visitor:
            def visit(self, name):
                return getattr(self, "visit_" + name)()
            def visit_int(self):
                return 1

        REGISTRY = {}

        def register(function):
            REGISTRY[function.__name__] = function
            return function

        @register
        def plugin():
            return 10

        def call(name):
            return REGISTRY[name]()
        """,
    "pkg/api.py": """
        from pkg.rates import RATE as rate, cached
        from . import rates

        def price(x):
            return cached(x) + rate

        def dispatch(name):
            return getattr(rates, name)()
        """,
    "test_it.py": """
        from pkg import api
        from pkg.rates import Leaf, Point, Visitor, call, indirect, lazy, wrapped

        def test_price():
            assert api.price(2) == 9

        def test_leaf():
            assert Leaf().size() == 1

        def test_wrapped():
            assert wrapped(1) == 1

        def test_lazy():
            assert lazy() == 7

        def test_indirect():
            assert indirect("build") == 7

        def test_visitor():
            assert Visitor().visit("int") == 1

        def test_registry():
            assert call("plugin") == 10

        def test_dispatch():
            assert api.dispatch("build") == 7
        """,
    "other.py": "def alone():\n    return 1\n",
}

STALE = [
    ("test_price", "test_it.py", "== 9", "== 10"),
    ("test_price", "pkg/rates.py", "x * RATE", "x + RATE"),
    ("test_price", "pkg/rates.py", "RATE = 3", "RATE = 4"),
    ("test_price", "pkg/rates.py", "RED = 1", "RED = 2"),
    ("test_price", "pkg/rates.py", "x: int = 0", "x: int = 1"),
    ("test_price", "pkg/rates.py", "@lru_cache\n", "@lru_cache(maxsize=1)\n"),
    ("test_price", "pkg/api.py", "+ rate", "- rate"),
    ("test_price", "pkg/api.py", "import RATE as rate, cached", "import cached, RATE as rate"),
    ("test_price", "pkg/__init__.py", "", "import sys\n"),
    ("test_price", "pkg/rates.py", 'TABLE = {"a": 1}', 'TABLE = {"a": 2}'),
    (
        "test_leaf",
        "pkg/rates.py",
        "class Leaf(Middle):\n    pass",
        "class Leaf(Middle):\n    def size(self): return 2",
    ),
    (
        "test_leaf",
        "pkg/rates.py",
        "class Middle(Base, object):\n    pass",
        "class Middle(Base, object):\n    def size(self): return 2",
    ),
    ("test_leaf", "pkg/rates.py", "limit = 5", "limit = 6"),
    ("test_leaf", "pkg/rates.py", "Leaf(Middle)", "Leaf(Middle, Other)"),
    ("test_wrapped", "pkg/rates.py", "return function(*args)", "return function(*args) + 1"),
    ("test_lazy", "pkg/rates.py", "return 7", "return 8"),
    ("test_indirect", "pkg/rates.py", "return 7", "return 8"),
    (
        "test_visitor",
        "pkg/rates.py",
        "def visit_int(self):\n        return 1",
        "def visit_int(self):\n        return 2",
    ),
    ("test_registry", "pkg/rates.py", "return 10", "return 11"),
    ("test_registry", "pkg/rates.py", "@register\ndef plugin", "def plugin"),
    ("test_dispatch", "pkg/rates.py", "return 7", "return 8"),
    ("test_price", "pkg/rates.py", "def unrelated(x):", "@register\ndef unrelated(x):"),
    ("test_price", "pkg/rates.py", "def unrelated(x):", "def unrelated(x, y=register(print)):"),
    ("test_price", "pkg/rates.py", "def unrelated(x):", "def print(x):"),
    ("test_price", "pkg/rates.py", "def unrelated(x):", "def expensive(x):"),
    ("test_price", "pkg/rates.py", "def unrelated(x):", "def unrelated(x: Undefined):"),
]

CACHED = [
    ("test_price", "pkg/rates.py", "RATE = 3", "# three\n\n\nRATE = 3  # still"),
    ("test_price", "pkg/rates.py", "x * RATE", "(x   *\n   RATE)"),
    ("test_price", "pkg/rates.py", "return x - 1", "return x - 2"),
    ("test_price", "pkg/rates.py", "def unrelated(x):", "def unrelated(x: int) -> int:"),
    ("test_price", "pkg/rates.py", "def unrelated(x):\n    return x - 1\n", ""),
    ("test_price", "pkg/rates.py", "class Base:", "def brand_new():\n    return 1\n\nclass Base:"),
    (
        "test_price",
        "pkg/rates.py",
        "def size(self):\n        return 1",
        "def size(self):\n        return 2",
    ),
    (
        "test_price",
        "test_it.py",
        "def test_leaf():",
        "def test_new():\n    pass\n\ndef test_leaf():",
    ),
    ("test_price", "test_it.py", "assert lazy() == 7", "assert lazy() == 8"),
    (
        "test_price",
        "test_it.py",
        "def test_leaf():",
        "import pytest\n\ndef test_leaf():".replace("import pytest\n\n", ""),
    ),
    ("test_price", "other.py", "return 1", "return 2"),
    ("test_leaf", "pkg/rates.py", "return 7", "return 70"),
]


def edit(project, name: str, before: str, after: str) -> None:
    path = project.root / name
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1) if before else text + after, encoding="utf-8")


@pytest.mark.parametrize(("test", "file", "before", "after"), STALE)
def test_changes_that_may_matter_invalidate(project, test, file, before, after) -> None:
    """A trace of only the test's own function is invalid after any change that it can reach,
    and valid again once the change is taken back."""
    project.write(BASE)
    trace = project.trace({f"test_it.py::{test}"})
    assert project.is_valid(trace)
    original = (project.root / file).read_text(encoding="utf-8")
    edit(project, file, before, after)
    assert not project.is_valid(trace)
    (project.root / file).write_text(original, encoding="utf-8")
    assert project.is_valid(trace)


@pytest.mark.parametrize(("test", "file", "before", "after"), CACHED)
def test_changes_that_cannot_matter_stay_valid(project, test, file, before, after) -> None:
    """Comments, formatting, other functions and unused new ones leave a trace valid."""
    project.write(BASE)
    trace = project.trace({f"test_it.py::{test}"})
    edit(project, file, before, after)
    assert project.is_valid(trace)


def test_name_listing_code_depends_on_new_functions(project) -> None:
    """Whoever star-imports a module, or reads its namespace, sees a new function in it."""
    project.write(
        {
            "lib.py": "def one():\n    return 1\n",
            "test_star.py": "from lib import *\ndef test_star():\n    assert one() == 1\n",
            "test_dir.py": "import lib\ndef test_dir():\n    assert 'two' not in dir(lib)\n",
            "test_plain.py": "import lib\ndef test_plain():\n    assert lib.one() == 1\n",
            "test_has.py": "import lib\ndef test_has():\n    assert not hasattr(lib, 'two')\n",
            "test_from.py": (
                "try:\n    from lib import two\nexcept ImportError:\n    two = None\n"
                "def test_from():\n    assert two is None\n"
            ),
        }
    )
    traces = {
        name: project.trace({f"test_{name}.py::test_{name}"})
        for name in ("star", "dir", "plain", "has", "from")
    }
    edit(project, "lib.py", "", "def two():\n    return 2\n")
    valid = {name for name, trace in traces.items() if project.is_valid(trace)}
    assert valid == {"plain"}


def test_module_that_shadows_is_seen(project) -> None:
    """A new module that would be imported instead, or an import that failed and now works,
    invalidates."""
    project.write(
        {
            "lib/tool.py": "X = 1\n",
            "test_it.py": (
                "import tool, csv\ntry:\n    import extra\nexcept ImportError:\n    extra = None\n"
                "def test_it():\n    assert tool.X == 1\n"
            ),
        }
    )
    project.path.append(str(project.root / "lib"))
    import csv

    project.path.append(csv.__file__.rpartition("/")[0])
    for name in ("tool.py", "tool/__init__.py", "csv.py", "extra.py"):
        trace = project.trace({"test_it.py::test_it"})
        assert project.is_valid(trace)
        project.write({name: "X = 2\n"})
        assert not project.is_valid(trace), name
        (project.root / name).unlink()
        if "/" in name:
            (project.root / name).parent.rmdir()
        assert project.is_valid(trace), name


def test_dynamic_modules_are_taken_as_handed_in(project) -> None:
    """A module that only an observer saw being imported counts, with what it imports."""
    project.write(
        {
            "deep.py": "VALUE = 1\n",
            "dynamic.py": "import deep\n",
            "test_it.py": "def test_it():\n    pass\n",
        }
    )
    trace = project.trace({"test_it.py::test_it"}, {"dynamic.py"})
    edit(project, "deep.py", "VALUE = 1", "VALUE = 2")
    assert not project.is_valid(trace)


def test_fixture_objects_are_reached_through_parameters(project) -> None:
    """A memoized method of an object that a shared fixture made counts for a later test, which
    never runs its body."""
    project.write(
        {
            "conftest.py": """
                import pytest
                from lib import Store

                @pytest.fixture(scope="session")
                def store():
                    return Store()
                """,
            "lib.py": """
                from functools import lru_cache

                class Store:
                    @lru_cache
                    def get(self):
                        return 1
                """,
            "test_it.py": "def test_it(store):\n    assert store.get() == 1\n",
        }
    )
    trace = project.trace({"test_it.py::test_it"}, {"conftest.py"})
    edit(project, "lib.py", "return 1", "return 2")
    assert not project.is_valid(trace)


@pytest.mark.parametrize(
    "addition",
    [
        "@pytest.fixture(autouse=True)\ndef changed():\n    yield\n",
        "def pytest_runtest_setup(item):\n    pass\n",
        "def setup_module():\n    pass\n",
    ],
)
def test_functions_found_by_name_or_registered_count_when_new(project, addition) -> None:
    """An autouse fixture, a hook or an xunit set-up that is new changes tests that name none of
    them."""
    project.write({"conftest.py": "import pytest\n", "test_it.py": "def test_it():\n    pass\n"})
    trace = project.trace({"test_it.py::test_it"}, {"conftest.py"})
    edit(project, "conftest.py", "", addition)
    assert not project.is_valid(trace)


def test_comment_in_conftest_stays_valid(project) -> None:
    """Comments in a conftest file matter to no one."""
    project.write({"conftest.py": "import pytest\n", "test_it.py": "def test_it():\n    pass\n"})
    trace = project.trace({"test_it.py::test_it"}, {"conftest.py"})
    edit(project, "conftest.py", "", "# nothing\n")
    assert project.is_valid(trace)
