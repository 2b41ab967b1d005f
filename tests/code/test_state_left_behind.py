"""State that an earlier test, or an import, left behind hides no dependency of a later test.

In each case only ``seed`` runs in the later test; what must be found is code that this test does
not run, because its effect is already there.
"""

from __future__ import annotations

import pytest
from edited_projects import Project, analysed

from pytest_taskcache.code.definitions import DefinitionKind

CASES = {
    "lazy attribute of a module's instance": (
        """
        class Store:
            def __init__(self):
                self.rows = None
            def all(self):
                if self.rows is None:
                    self.rows = self.load()
                return self.rows
            def load(self):
                return 1  # here

        STORE = Store()

        def seed():
            return STORE.all()
        """
    ),
    "constructor of a singleton": (
        """
        class Single:
            _one = None
            @classmethod
            def get(cls):
                if cls._one is None:
                    cls._one = cls()
                return cls._one
            def __init__(self):
                self.x = 1  # here

        def seed():
            return Single.get()
        """
    ),
    "constructor in a base class": (
        """
        class Base:
            def __init__(self):
                self.x = 1  # here

        class Derived(Base):
            pass

        THE = None

        def seed():
            global THE
            THE = THE or Derived()
            return THE.x
        """
    ),
    "subclass registered by __init_subclass__": (
        """
        class Base:
            known = []
            def __init_subclass__(cls):
                Base.known.append(cls())

        class Plugin(Base):
            def __init__(self):
                self.x = 1  # here

        def seed():
            return [item.x for item in Base.known]
        """
    ),
    "registration by a decorator": (
        """
        KNOWN = {}

        def register(function):
            KNOWN[function.__name__] = function()
            return function

        @register
        def plugin():
            return 1  # here

        def seed():
            return KNOWN["plugin"]
        """
    ),
    "registration by a call": (
        """
        class Registry(dict):
            def add(self, function):
                self[function] = function()

        KNOWN = Registry()

        def plugin():
            return 1  # here

        KNOWN.add(plugin)

        def seed():
            return list(KNOWN.values())
        """
    ),
    "registration in a table": (
        """
        KNOWN = {}

        def plugin():
            return 1  # here

        for name in ("a", "b"):
            KNOWN[name] = plugin()

        def seed():
            return KNOWN
        """
    ),
    "memoized property of another object": (
        """
        from functools import cached_property

        class Thing:
            @cached_property
            def value(self):
                return 1  # here

        THING = Thing()

        def seed():
            return THING.value
        """
    ),
    "operator of a class that is only made elsewhere": (
        """
        from functools import lru_cache

        class Money:
            def __init__(self, x):
                self.x = x
            def __add__(self, other):
                return self.x + other.x  # here

        @lru_cache
        def total():
            return Money(1) + Money(2)

        def seed():
            return total()
        """
    ),
    "computed method name": (
        """
        class Visitor:
            memo = {}
            def visit(self, kind):
                if kind not in self.memo:
                    self.memo[kind] = getattr(self, f"visit_{kind}")()
                return self.memo[kind]
            def visit_int(self):
                return 1  # here

        def seed():
            return Visitor().visit("int")
        """
    ),
    "mixin that is served by a sibling": (
        """
        class Mixin:
            def run(self):
                self.memo = getattr(self, "memo", None) or self.compute()

        class Provider:
            def compute(self):
                return 1  # here

        class Both(Mixin, Provider):
            pass

        BOTH = Both()

        def seed():
            return BOTH.run()
        """
    ),
    "factory chosen at import": (
        """
        def fast():
            return 1  # here

        def slow():
            return 2

        compute = fast if True else slow
        RESULT = None

        def seed():
            global RESULT
            if RESULT is None:
                RESULT = compute()
            return RESULT
        """
    ),
    "import inside a function": (
        """
        CACHE = {}

        def seed():
            if "x" not in CACHE:
                from helper_module import deep
                CACHE["x"] = deep()
            return CACHE["x"]
        """
    ),
    "metaclass that makes the instance": (
        """
        class Meta(type):
            made = {}
            def __call__(cls):
                if cls not in Meta.made:
                    Meta.made[cls] = super().__call__()  # here
                return Meta.made[cls]

        class One(metaclass=Meta):
            pass

        def build():
            return One()

        STATE = None

        def seed():
            global STATE
            STATE = STATE or build()
            return STATE
        """
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_code_behind_state_is_found(case) -> None:
    """Editing the line that did not run, since its effect was there, invalidates."""
    text = CASES[case]
    name = "helper_module.py" if "helper_module" in text else "subject.py"
    functions = [
        item.name
        for item in analysed("subject.py", text).definitions
        if item.kind is DefinitionKind.FUNCTION and item.name != "seed"
    ]
    project = Project(
        {"subject.py": text, "helper_module.py": "def deep():\n    return 1  # here\n"},
        [
            "helper_module.py::deep",
            *(f"subject.py::{function}" for function in functions),
            "subject.py::seed",
        ],
    )
    line = next(line for line in project.files[name].splitlines() if "# here" in line)
    changes = project.edit(name, line, line.replace("  # here", " + 1"))
    assert project.why(changes, "subject.py::seed")


def test_set_up_in_a_base_class_elsewhere() -> None:
    """A test method depends on the set-up its class inherits, even if it ran for another test."""
    project = Project(
        {
            "base.py": "class Base:\n    @classmethod\n"
            "    def setup_class(cls):\n        cls.x = 1\n",
            "test_it.py": "from base import Base\nclass TestIt(Base):\n    def test_x(self):\n"
            "        assert self.x == 1\n",
        },
        ["base.py::Base.setup_class", "test_it.py::TestIt.test_x"],
    )
    changes = project.edit("base.py", "= 1", "= 2")
    assert project.why(changes, "test_it.py::TestIt.test_x")
