"""Every edit that may change an outcome reaches it, and harmless ones do not."""

from __future__ import annotations

import pytest
from edited_projects import Project

from pytest_taskcache.code.definitions import Analysis, diff
from pytest_taskcache.code.reach import NEVER, Log, affected
from pytest_taskcache.code.source_file import analyse

LIB = """
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

_state = None

def lazy():
    global _state
    if _state is None:
        _state = build()
    return _state

def build():
    return 7

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
"""
TESTS = """
import api
from rates import Leaf, Point, Visitor, call, lazy, wrapped, Colour

def test_price():
    assert api.price(2) == 9

def test_leaf():
    assert Leaf().size() == 1

def test_wrapped():
    assert wrapped(1) == 1

def test_lazy():
    assert lazy() == 7

def test_visitor():
    assert Visitor().visit("int") == 1

def test_registry():
    assert call("plugin") == 10

def test_point():
    assert Point().x == 0 and Colour.RED.value == 1
"""
API = """
from rates import RATE as rate, cached

def price(x):
    return cached(x) + rate
"""
RAN = [
    "rates.py",
    "rates.py::noisy",
    "rates.py::register",
    "api.py",
    "test_it.py",
    *("test_it.py::test_other", "rates.py::cached", "rates.py::expensive", "rates.py::build"),
    *("rates.py::lazy", "rates.py::unrelated", "rates.py::plugin", "rates.py::call"),
    *("test_it.py::test_price", "api.py::price"),
    *("test_it.py::test_leaf", "rates.py::Base.size"),
    *("test_it.py::test_wrapped", "rates.py::noisy.<locals>.inner", "rates.py::wrapped"),
    "test_it.py::test_lazy",
    *("test_it.py::test_visitor", "rates.py::Visitor.visit", "rates.py::Visitor.visit_int"),
    "test_it.py::test_registry",
    "test_it.py::test_point",
]
WINDOWS = {
    "test_price": ["test_it.py::test_price", "api.py::price"],
    "test_leaf": ["test_it.py::test_leaf", "rates.py::Base.size"],
    "test_wrapped": [
        *("test_it.py::test_wrapped", "rates.py::noisy.<locals>.inner", "rates.py::wrapped")
    ],
    "test_lazy": ["test_it.py::test_lazy", "rates.py::lazy"],
    "test_visitor": [
        *("test_it.py::test_visitor", "rates.py::Visitor.visit", "rates.py::Visitor.visit_int")
    ],
    "test_registry": ["test_it.py::test_registry", "rates.py::call"],
    "test_point": ["test_it.py::test_point"],
}
STALE = [
    ("test_price", "test_it.py", "== 9", "== 10"),
    ("test_price", "rates.py", "x * RATE", "x + RATE"),
    ("test_price", "rates.py", "RATE = 3", "RATE = 4"),
    ("test_price", "rates.py", "@lru_cache\n", "@lru_cache(maxsize=1)\n"),
    ("test_price", "api.py", "+ rate", "- rate"),
    ("test_price", "api.py", "RATE as rate", "TABLE as rate"),
    ("test_price", "rates.py", "def unrelated(x):", "def expensive(x):"),
    ("test_price", "rates.py", "class Base:", "import other_things\nclass Base:"),
    ("test_price", "rates.py", "class Base:", "print('hello')\nclass Base:"),
    (
        "test_leaf",
        "rates.py",
        "class Leaf(Middle):\n    pass",
        "class Leaf(Middle):\n    def size(self): 2",
    ),
    ("test_leaf", "rates.py", "(Base, object):\n    pass", "(Base):\n    def size(self): 2"),
    ("test_leaf", "rates.py", "limit = 5", "limit = 6"),
    ("test_leaf", "rates.py", "class Leaf(Middle)", "class Leaf(Base)"),
    ("test_wrapped", "rates.py", "return function(*args)", "return function(*args) + 1"),
    ("test_lazy", "rates.py", "return 7", "return 8"),
    ("test_visitor", "rates.py", "return 1\n\nREGISTRY", "return 2\n\nREGISTRY"),
    (
        "test_visitor",
        "rates.py",
        "REGISTRY =",
        "    def visit_int(self):\n        return 3\n\nREGISTRY =",
    ),
    ("test_registry", "rates.py", "return 10", "return 11"),
    ("test_registry", "rates.py", "@register\ndef plugin", "def plugin"),
    ("test_registry", "rates.py", "def unrelated(x):", "@register\ndef unrelated(x):"),
    ("test_point", "rates.py", "x: int = 0", "x: int = 1"),
    ("test_point", "rates.py", "RED = 1", "RED = 2"),
    ("test_point", "rates.py", "RED = 1", "RED = 1\n    BLUE = 2"),
]
KEPT = [
    ("test_price", "rates.py", "RATE = 3", "# three\n\n\nRATE = 3  # still"),
    ("test_price", "rates.py", "x * RATE", "(x   *\n   RATE)"),
    ("test_price", "rates.py", "return x - 1", "return x - 2"),
    ("test_price", "rates.py", "def unrelated(x):", "def unrelated(x: int) -> int:"),
    ("test_price", "rates.py", "def unrelated(x):\n    return x - 1\n", ""),
    ("test_price", "rates.py", "class Base:", "def brand_new():\n    return 1\n\nclass Base:"),
    ("test_price", "rates.py", "", "\ndef brand_new():\n    return 1\n"),
    ("test_price", "rates.py", "class Base:", "import json\n\nclass Base:"),
    ("test_price", "rates.py", "return 1\n\nclass Middle", "return 2\n\nclass Middle"),
    ("test_price", "rates.py", 'TABLE = {"a": 1}', 'TABLE = {"a": 2}'),
    ("test_price", "test_it.py", "def test_leaf", "def test_new():\n    pass\n\ndef test_leaf"),
    ("test_price", "test_it.py", "assert lazy() == 7", "assert lazy() == 8"),
    ("test_leaf", "rates.py", "return 7", "return 70"),
]


@pytest.fixture(scope="module")
def project() -> Project:
    files = {"rates.py": LIB, "api.py": API, "test_it.py": TESTS}
    files["test_it.py"] += "\ndef test_other():\n    assert api.price(1)\n"
    return Project(files, RAN)


@pytest.mark.parametrize(("test", "file", "before", "after"), STALE)
def test_changes_that_may_matter_invalidate(project, test, file, before, after) -> None:
    """Whatever a test ran, or may have found as an earlier one left it, is its dependency."""
    changes = project.edit(file, before, after)
    assert project.why(changes, *WINDOWS[test])


@pytest.mark.parametrize(("test", "file", "before", "after"), KEPT)
def test_changes_that_cannot_matter_stay_valid(project, test, file, before, after) -> None:
    """Comments, formatting, other functions, hints and new functions leave a test valid."""
    changes = project.edit(file, before, after)
    assert project.why(changes, *WINDOWS[test]) == ""


def test_what_ran_later_does_not_count(project) -> None:
    """A record closed before the changed function first ran cannot have found its traces."""
    changes = project.edit("rates.py", "return 7", "return 8")
    window = WINDOWS["test_lazy"]
    assert project.why(changes, *window)
    early = Project(
        project.files, [*RAN[:5], "rates.py::lazy", "test_it.py::test_lazy", "rates.py::build"]
    )
    assert early.why(changes, *window, closed="test_it.py::test_lazy") == ""
    assert early.why(changes, *window)


def test_the_worked_example() -> None:
    """As told at the top of the module."""
    project = Project(
        {
            "lib.py": "LIMIT = 2\nSTORE = {}\ndef fill(): STORE['x'] = scale()\n"
            "def scale(): return LIMIT\ndef limit(): return LIMIT + 1\n",
            "test_a.py": "import lib\ndef test_read(): assert lib.STORE['x']\n"
            "def test_limit(): assert lib.limit()\n",
        },
        [
            *("lib.py", "lib.py::fill", "lib.py::scale", "test_a.py", "test_a.py::test_read"),
            *("lib.py::limit", "test_a.py::test_limit"),
        ],
    )
    changes = project.edit("lib.py", "return LIMIT\n", "return LIMIT * 2\n")
    found = project.reached(changes)
    positions = dict(zip(project.nodes, found.positions, strict=True))
    assert positions["lib.py", "fill"] == 2
    assert positions["test_a.py", "test_read"] == 2
    assert positions["test_a.py", "test_limit"] == NEVER
    assert found.invalid([4], 4) == "lib.py::scale changed"
    assert found.invalid([4], 1) == ""


def test_a_footprint_counts_like_its_function() -> None:
    """Whoever reaches a memoized function reaches the file it read."""
    project = Project(
        {
            "lib.py": "import functools\n@functools.cache\n"
            "def load():\n    return open('x').read()\n",
            "test_a.py": "from lib import load\ndef test_a():\n    assert load()\n"
            "def test_b():\n    assert True\n",
        },
        ["test_a.py::test_a", "lib.py::load", "test_a.py::test_b"],
    )
    node = project.position("lib.py::load")
    found = affected(project.log, {}, {node: (node, "file changed: x")})
    a, b = project.position("test_a.py::test_a"), project.position("test_a.py::test_b")
    assert found.invalid([a], 99) == "file changed: x"
    assert found.invalid([b], 99) == ""


CONFTEST = """
import pytest
from lib import rate

@pytest.fixture(scope="session")
def value():
    return rate()

@pytest.fixture
def other():
    return 2

def helper():
    return 3
"""


@pytest.mark.parametrize(
    ("before", "after", "stale"),
    [
        ("return rate()", "return rate() + 1", {"uses"}),
        ('scope="session"', 'scope="module"', {"uses"}),
        ("return 2", "return 3", set()),
        ("return 3", "return 4", set()),
        ("", "\n@pytest.fixture\ndef new():\n    return 1\n", set()),
        ("", "\n@pytest.fixture(autouse=True)\ndef new():\n    return 1\n", {"uses", "plain"}),
        ("", "\ndef pytest_runtest_setup(item):\n    pass\n", {"uses", "plain"}),
        ("", "\npytest_plugins = ['more']\n", {"uses", "plain"}),
        ("", "\nimport os\nos.environ['X'] = '1'\n", {"uses", "plain"}),
    ],
)
def test_a_conftest_counts_by_its_parts(before, after, stale) -> None:
    """A fixture or function of a conftest concerns who uses it; a hook, a plugin, an automatic
    fixture or a statement concerns all tests below it."""
    project = Project(
        {
            "lib.py": "def rate():\n    return 1\n",
            "tests/conftest.py": CONFTEST,
            "tests/test_a.py": "def test_uses(value):\n    assert value\n"
            "def test_plain():\n    pass\n",
            "elsewhere/test_b.py": "def test_plain():\n    pass\n",
        },
        [
            *("tests/conftest.py::value", "lib.py::rate", "tests/test_a.py::test_uses"),
            *("tests/test_a.py::test_plain", "elsewhere/test_b.py::test_plain"),
        ],
    )
    changes = project.edit("tests/conftest.py", before, after)
    for name in ("uses", "plain"):
        found = project.why(changes, f"tests/test_a.py::test_{name}")
        assert bool(found) is (name in stale)
    assert project.why(changes, "elsewhere/test_b.py::test_plain") == ""


def test_a_new_conftest_concerns_the_tests_below_it() -> None:
    """A conftest that was not there may override a fixture, or bring a hook."""
    project = Project(
        {
            "conftest.py": CONFTEST,
            "lib.py": "def rate():\n    return 1\n",
            "inner/test_a.py": "def test_uses(value):\n    assert value\n"
            "def test_no():\n    pass\n",
        },
        ["inner/test_a.py::test_uses", "inner/test_a.py::test_no"],
    )
    fixture = analyse(b"import pytest\n@pytest.fixture\ndef value():\n    return 2\n")
    changes = {"inner/conftest.py": diff(Analysis(), fixture)}
    assert project.why(changes, "inner/test_a.py::test_uses")
    hook = analyse(b"def pytest_runtest_call(item):\n    pass\n")
    changes = {"inner/conftest.py": diff(Analysis(), hook)}
    assert project.why(changes, "inner/test_a.py::test_no")


def test_a_module_that_acts_on_others_is_found_from_what_it_acts_on() -> None:
    """A registry's reader does not import who registers: another test did."""
    project = Project(
        {
            "registry.py": "REGISTRY = {}\n"
            "def register(f):\n    REGISTRY[f.__name__] = f\n    return f\n",
            "plugins.py": "from registry import register\n@register\ndef a():\n    return 1\n",
            "direct.py": "import registry\nregistry.REGISTRY['b'] = 1\n",
            "test_a.py": "import plugins, direct\ndef test_a():\n    pass\n",
            "test_b.py": "from registry import REGISTRY\ndef test_b():\n    assert REGISTRY\n"
            "def test_c():\n    pass\n",
        },
        ["registry.py::register", "plugins.py::a", "test_b.py::test_b", "test_b.py::test_c"],
    )
    for file, before, after in (
        ("plugins.py", "return 1", "return 2"),
        ("plugins.py", "@register\n", ""),
        ("direct.py", "= 1", "= 2"),
    ):
        changes = project.edit(file, before, after)
        assert project.why(changes, "test_b.py::test_b"), (file, after)
        assert project.why(changes, "test_b.py::test_c") == "", (file, after)


def test_a_file_that_cannot_be_parsed_counts_as_a_whole() -> None:
    """A syntax error, bytes that are no text, or their mending concern all who import the file."""
    project = Project(
        {
            "lib.py": "def one():\n    return 1\n",
            "test_a.py": "import lib\ndef test_a():\n    pass\n",
            "test_b.py": "def test_b():\n    pass\n",
        },
        ["test_a.py::test_a", "test_b.py::test_b"],
    )
    for content in (b"def one(:\n", b"\xff\xfe\x00", b"x = '\n", b"(" * 3000):
        changes = {"lib.py": diff(project.log.files["lib.py"], analyse(content))}
        assert project.why(changes, "test_a.py::test_a")
        assert project.why(changes, "test_b.py::test_b") == ""
        mended = Log(
            project.nodes, {**project.log.files, "lib.py": analyse(content)}, project.log.imports
        )
        back = {"lib.py": diff(mended.files["lib.py"], project.log.files["lib.py"])}
        assert affected(mended, back).invalid([project.position("test_a.py::test_a")], 9)


def test_five_thousand_modules() -> None:
    """A chain of imports through five thousand modules is walked, and ends."""
    files = {}
    for number in range(5000):
        text = f"from m{number + 1} import f{number + 1}\n" if number < 4999 else ""
        following = f"f{number + 1}()" if number < 4999 else "1"
        files[f"m{number}.py"] = f"{text}def f{number}():\n    return {following}\n"
    ran = [f"m{number}.py::f{number}" for number in reversed(range(5000))]
    project = Project(files, ran)
    changes = project.edit("m4999.py", "return 1", "return 2")
    found = project.reached(changes)
    assert found.positions[project.position("m0.py::f0")] < NEVER
    assert project.why(project.edit("m0.py", "return", "return 1 +"), "m1.py::f1") == ""


def test_examples_are_reached_where_functions_ran_unseen() -> None:
    """Code that stands in no source file, such as a condition that is a text, ran when it did."""
    files = {"rules.py": "OLD = 1\n", "test_a.py": "from rules import OLD\n"}
    project = Project(files, ["test_a.py::<doctest> OLD"])
    log = Log(project.nodes, project.log.files, project.log.imports, whole=[*files])
    changes = project.edit("rules.py", "1", "2")
    for each in (project.log, log):
        position = project.position("test_a.py::<doctest> OLD")
        assert affected(each, changes).invalid([position], 9)


def _project_of_a_library(body: str) -> Project:
    head = "from library import Base\nimport registry\nclass App(Base):\n    name = 'x'\n"
    return Project(
        {
            "registry.py": "KNOWN = []\n",
            "app.py": head + body,
            "test_a.py": "import app\ndef test_a():\n    pass\n",
            "test_b.py": "import registry\ndef test_b():\n    assert not registry.KNOWN\n",
        },
        ["app.py::App.ready"] * bool(body)
        + ["app.py::<begun>", "test_a.py::test_a", "test_b.py::test_b"],
    )


READY = "    def ready(self):\n        "


@pytest.mark.parametrize(
    ("body", "before", "after", "stale"),
    [
        (READY + "pass\n", "pass", "registry.KNOWN.append(1)", "ab"),
        (READY + "pass\n", "pass", "from library import signal; signal.connect(print)", "a"),
        (READY + "pass\n", "pass", "from registry import KNOWN as K; K.append(1)", "ab"),
        ("", "", READY + "registry.KNOWN.append(1)\n", "ab"),
        ("", "", READY + "from library import signal; signal.connect(print)\n", "a"),
    ],
)
def test_what_a_library_calls_before_tests_acts(body, before, after, stale) -> None:
    """A method that overrides a library's is called by nobody in the project. What ran before any
    test concerns all who import its module, and whoever reads what it changes."""
    project = _project_of_a_library(body)
    changes = project.edit("app.py", before, after)
    for name in "ab":
        assert bool(project.why(changes, f"test_{name}.py::test_{name}")) is (name in stale)


def test_a_method_that_a_base_from_elsewhere_calls_comes_with_its_class() -> None:
    """Who has a result of `Encoder` kept need not name the method that made it."""
    project = Project(
        {
            "encoders.py": "import json\nclass Encoder(json.JSONEncoder):\n"
            "    def default(self, value):\n        return 1\n"
            "class Child(Encoder):\n    def default(self, value):\n        return 1.5\n",
            "lib.py": "from encoders import Encoder, Child\n"
            "def text():\n    return dumps(cls=Encoder)\n"
            "def other():\n    return dumps(cls=Child)\n"
            "def none():\n    pass\n",
        },
        [
            *("lib.py::<begun>", "encoders.py::Encoder.default", "encoders.py::Child.default"),
            *("lib.py::text", "lib.py::other", "lib.py::none"),
        ],
    )
    for before, name in (("return 1\n", "text"), ("return 1.5", "other")):
        changes = project.edit("encoders.py", before, "return 2\n")
        assert project.why(changes, f"lib.py::{name}")
        assert not project.why(changes, "lib.py::none")


def test_a_module_is_not_named_by_who_takes_a_name_from_it() -> None:
    """``main`` in ``from pkg.main import App`` is no function of that name."""
    project = Project(
        {
            "pkg/__init__.py": "",
            "pkg/main.py": "class App:\n    limit = 1\n",
            "pkg/cli.py": "from pkg.main import App\ndef main():\n    return App, 1\n",
            "test_a.py": "from pkg.cli import App\ndef test_a():\n    assert App.limit\n",
            "test_b.py": "from pkg.cli import main\ndef test_b():\n    assert main()\n",
        },
        ["test_a.py::test_a", "test_b.py::test_b", "pkg/cli.py::main"],
    )
    changes = project.edit("pkg/cli.py", "1", "2")
    assert project.why(changes, "test_a.py::test_a") == ""
    assert project.why(changes, "test_b.py::test_b") == "pkg/cli.py::main changed"
