"""Dependencies on code: functions, constants, classes, decorators, imports."""

from __future__ import annotations

import shutil
from pathlib import Path

from ladder import EVERY, Form, Scenario

_REGISTRY = """
REGISTRY = {}
def register(f):
    REGISTRY[f.__name__] = f
    return f
"""


_KEEPING = """
KEPT = []

def is_make(f):
    return getattr(f, "__name__", "") == "make"

def keep(p):
    KEPT.append(p.make())
    return p

def keep_all(p):
    KEPT.extend(f() for f in [*p.__dict__.values()] if is_make(f))
    return p

class Making(type):
    def __init__(cls, name, bases, items):
        KEPT.extend(f() for f in items.values() if is_make(f))

class Made(metaclass=Making):
    pass
"""

_REGISTERING = """
KNOWN = []
class Base:
    def __init_subclass__(cls):
        KNOWN.append(cls)
class Middle(Base):
    pass
"""

_MAKING = "class P:\n    def make(self=None):\n        return 1\n"


def _replace(path: Path, before: str, after: str) -> None:
    path.write_text(path.read_text().replace(before, after))


def _metadata(name: str, version: str, *requires: str) -> dict[str, str]:
    directory = f"site-packages/{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {each}\n" for each in requires)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
    return {
        f"{directory}/METADATA": text,
        f"{directory}/RECORD": f"{name}.py,,\n{name}-{version}.dist-info/METADATA,,\n",
    }


def _test(line: str) -> str:
    return f'from counter import count\n\ndef test_it():\n    count("SELF.it")\n    {line}\n'


def _point(x: int) -> str:
    return f"from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int = {x}\n"


def _doubling(n: int) -> str:
    return f"def times(f):\n    def inner(x):\n        return f(x) * {n}\n    return inner\n"


def _partial(n: int) -> str:
    return f"from functools import partial\nfrom operator import add\ninc = partial(add, {n})\n"


_SOMEONE_ELSES = "from . import {}\n\ndef test_it():\n    pass\n"
"""A test file by which a module is loaded, and nothing more."""

_POINT = "from dataclasses import dataclass\n@dataclass\nclass Point:\n    {}\n    {}\n"

CODE = [
    Scenario(
        "submodule_that_someone_else_imported",
        head="import SELF",
        body="result = SELF.rates.RATE",
        files={"rates.py": "RATE = 2\n", "test_other.py": _SOMEONE_ELSES.format("rates")},
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    Scenario(
        "file_read_by_who_set_something_on_a_module",
        head="from . import app",
        body="result = app.backend.value",
        files={
            "app.py": "backend = None\n",
            "plug.py": "from pathlib import Path\nfrom . import app\nclass Backend:\n"
            "    value = (Path(__file__).parent / 'd.txt').read_text()\napp.backend = Backend\n",
            "d.txt": "1",
            "test_other.py": _SOMEONE_ELSES.format("plug"),
        },
        change={"d.txt": "2"},
        named=["SELF/d.txt"],
    ),
    *(
        Scenario(
            f"moved_below_what_needs_it_at_import_{name}",
            body="""
            try:
                from . import late
                result = late.X
            except NameError:
                result = 0
            """,
            files={"late.py": first + second},
            change={"late.py": second + first},
        )
        for name, first, second in (
            ("a_function", "def rate():\n    return 2\n", "X = rate()\n"),
            ("a_decorator", "def it(f):\n    return f\n", "@it\ndef X():\n    return 2\n"),
            ("an_import", "import math\n", "X = math.floor(2.5)\n"),
            ("an_annotation", "from decimal import Decimal\n", "def X(a: Decimal):\n    pass\n"),
            ("of_the_same_name", "from .__init__ import __doc__ as X\n", "def X():\n    pass\n"),
        )
    ),
    *(
        Scenario(
            f"order_of_the_{name}",
            head="from . import steps",
            body=f"result = [name for name in vars({of}) if name[0] != '_']",
            files={"steps.py": head + one + two},
            change={"steps.py": head + two + one},
        )
        for name, of, head, one, two in (
            ("functions_of_a_module", "steps", "", "def f(): pass\n", "def g(): pass\n"),
            (
                "methods_of_a_class",
                "steps.A",
                "class A:\n",
                "  def f(x): pass\n",
                "  def g(x): pass\n",
            ),
        )
    ),
    *(
        Scenario(
            f"{name}_that_is_new_in_the_globals_of_a_function",
            group="any globals",
            head="from .steps import f",
            body="result = [name for name in f.__globals__ if name[0] != '_']",
            files={"steps.py": "def f(): pass\n"},
            change={"steps.py": "def f(): pass\n" + new},
        )
        for name, new in (("function", "def g(): pass\n"), ("constant", "X = 1\n"))
    ),
    Scenario(
        "function_that_begins_to_change_what_it_did_not_import",
        head="from . import registry",
        body="result = registry.KNOWN",
        files={
            "registry.py": "KNOWN = []\n",
            "app.py": "def go():\n    pass\n",
            "test_other.py": "from . import app\n\ndef test_other():\n    app.go()\n",
        },
        change={
            "app.py": "def go():\n    from .registry import KNOWN as known\n    known.append(1)\n"
        },
    ),
    Scenario(
        "annotations_are_no_longer_evaluated",
        head="from . import points",
        body="result = points.Point.__annotations__['x']",
        files={"points.py": "class Point:\n    x: int = 1\n"},
        change={"points.py": "from __future__ import annotations\nclass Point:\n    x: int = 1\n"},
    ),
    *(
        Scenario(
            f"module_got_at_by_text_{name}",
            head=head,
            body=body,
            files={
                "__init__.py": "",
                "rates.py": "RATE = 2\n",
                "text.txt": text,
                "inner/__init__.py": "",
                "inner/rates.py": "RATE = 2\n",
                "api.py": "from .rates import *\n",
                "price.py": "def price(of):\n    return of.RATE\n"
                "def price_inside(of):\n    return of.rates.RATE\n",
                "evaluated.py": "from pathlib import Path\nfrom . import rates\n"
                "exec((Path(__file__).parent / 'text.txt').read_text())\n",
                "test_other.py": _SOMEONE_ELSES.format("rates"),
            },
            change={"rates.py": "RATE = 3\n", "inner/rates.py": "RATE = 3\n"},
            # Whoever may get at any module gets at those of all other scenarios.
            group="modules" if name in ("import_module", "locate") else "",
        )
        for name, head, text, body in (
            ("eval", "from . import rates", "rates.RATE", "result = eval(TEXT)"),
            ("eval_of_a_constant", "from . import rates", "", "result = eval('rates.RATE * 2')"),
            (
                "exec_that_imports",
                "",
                "from SELF import rates\nresult = rates.RATE",
                "exec(TEXT, scope := {})\nresult = scope['result']",
            ),
            ("exec_at_import", "from . import evaluated", "X = rates.RATE", "result = evaluated.X"),
            ("format", "from . import rates", "{rates.RATE}", "result = TEXT.format(**globals())"),
            (
                "import_module",
                "import importlib",
                "RATE",
                "result = getattr(importlib.import_module('SELF.rates'), TEXT)",
            ),
            ("locate", "import pydoc", "SELF.rates.RATE", "result = pydoc.locate(TEXT)"),
            (
                "patch",
                "from pytest import MonkeyPatch",
                "",
                "with MonkeyPatch.context() as m:\n    m.setattr('SELF.rates.RATE', result := 5)",
            ),
            (
                "package",
                "from .price import *\nfrom . import inner\nfrom .inner import rates",
                "",
                "result = price_inside(inner)",
            ),
            ("star", "from .price import price\nfrom . import api", "", "result = price(api)"),
            (
                "import_inside",
                "from .price import price",
                "",
                "from . import rates\nresult = price(rates)",
            ),
        )
        for body in [body.replace("TEXT", "(HERE / 'text.txt').read_text()")]
    ),
    Scenario(
        "order_of_the_fields_of_a_dataclass",
        head="from .points import Point",
        body="result = Point(1, 2).x",
        files={"points.py": _POINT.format("x: int", "y: int")},
        change={"points.py": _POINT.format("y: int", "x: int")},
    ),
    Scenario(
        "order_of_an_assignment_and_what_reads_it",
        head="from .late import PRICE",
        body="result = PRICE",
        files={"late.py": "RATE = 1\nPRICE = RATE * 2\nRATE = 5\n"},
        change={"late.py": "RATE = 1\nRATE = 5\nPRICE = RATE * 2\n"},
    ),
    Scenario(
        "module_that_is_handed_to_a_function",
        head="from . import settings_of_it, pricing_by_settings",
        body="result = pricing_by_settings.price(settings_of_it)",
        files={
            "settings_of_it.py": "RATE = 2\n",
            "pricing_by_settings.py": "def price(settings):\n    return settings.RATE\n",
        },
        change={"settings_of_it.py": "RATE = 3\n"},
        named=["SELF/settings_of_it.py::RATE"],
    ),
    Scenario(
        "attribute_by_a_name_that_is_put_together",
        head="from . import rates",
        body="result = getattr(rates, 'speed'.upper())",
        files={"rates.py": "SPEED = 2\n"},
        change={"rates.py": "SPEED = 3\n"},
    ),
    Scenario(
        "registered_through_a_function_of_a_function",
        head="from . import filler, registry",
        body="result = registry.KNOWN[-1]",
        files={
            "registry.py": "KNOWN: list = []\ndef put(x):\n    _put(x)\n"
            "def _put(x):\n    KNOWN.append(x)\n",
            "rates.py": "RATE = 2\n",
            "filler.py": "from . import rates, registry\nDONE = registry.put(rates.RATE)\n",
        },
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    Scenario(
        "registered_by_a_base_of_a_base",
        head="from . import filler, registry",
        body="result = registry.KNOWN[-1]",
        files={
            "registry.py": "KNOWN = []\nclass Base:\n    def __init_subclass__(cls, rate=None):\n"
            "        KNOWN.append(rate)\nclass Middle(Base):\n    pass\n",
            "rates.py": "RATE = 2\n",
            "filler.py": "from . import rates, registry\n"
            "class It(registry.Middle, rate=rates.RATE):\n    pass\n",
        },
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    Scenario(
        "new_class_that_a_base_of_its_base_registers",
        head="from . import registry",
        body="result = len(registry.KNOWN)",
        files={"registry.py": _REGISTERING},
        change={"registry.py": f"{_REGISTERING}class Other(Middle):\n    pass\n"},
        forms=EVERY,
        named=["SELF/registry.py::Other"],
    ),
    Scenario(
        "class_that_is_read_by_who_registers_it",
        head="from . import filler, registry",
        body="result = registry.KNOWN[-1]",
        files={
            "registry.py": "KNOWN = []\ndef register(cls):\n    KNOWN.append(cls.speed)\n"
            "    return cls\n",
            "rates.py": "RATE = 2\n",
            "filler.py": "from . import rates, registry\n@registry.register\n"
            "class It:\n    speed = rates.RATE\n",
        },
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    Scenario(
        "registered_by_a_function_that_imports_inside",
        head="from . import filler, registry",
        body="result = registry.KNOWN[-1]",
        files={
            "registry.py": "KNOWN = []\n",
            "rates.py": "RATE = 2\n",
            "filler.py": "from . import rates\ndef fill():\n    from .registry import KNOWN\n"
            "    KNOWN.append(rates.RATE)\nDONE = fill()\n",
        },
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    Scenario(
        "automatic_fixture_that_comes_by_a_star",
        head="from .more_fixtures import *",
        body="result = 1",
        files={"more_fixtures.py": "import pytest\n"},
        change={
            "more_fixtures.py": "import pytest\n@pytest.fixture(autouse=True)\n"
            "def anything():\n    pass\n"
        },
    ),
    Scenario(
        "list_filled_in_a_comprehension_over_it",
        head="from . import filler, registry",
        body="result = registry.KNOWN[-1]",
        files={
            "registry.py": "KNOWN = []\n",
            "rates.py": "RATE = 2\n",
            "filler.py": "from . import rates, registry\n"
            "DONE = [one.append(rates.RATE) for one in [registry.KNOWN]]\n",
        },
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    Scenario(
        "object_changed_by_a_method_called_like_one_that_reads",
        head="from . import filler, registry",
        body="result = registry.box.items[-1]",
        files={
            "registry.py": "class Box:\n    def __init__(self):\n        self.items = []\n"
            "    def resolve(self, x):\n        self.items.append(x)\nbox = Box()\n",
            "rates.py": "RATE = 2\n",
            "filler.py": "from . import rates, registry\nDONE = registry.box.resolve(rates.RATE)\n",
        },
        change={"rates.py": "RATE = 3\n"},
        named=["SELF/rates.py::RATE"],
    ),
    *(
        Scenario(
            f"file_read_by_a_{kind}_of_a_module",
            head="from . import reading",
            body="result = reading.FOUND",
            files={
                "d.txt": "1",
                "reading.py": "from pathlib import Path\nHERE = Path(__file__).parent\n"
                f"FOUND = {expression}\n",
            },
            change={"d.txt": "2"},
            named=["SELF/d.txt"],
        )
        for kind, expression in {
            "comprehension": "[(HERE / name).read_text() for name in ['d.txt']]",
            "generator": "tuple((HERE / name).read_text() for name in ['d.txt'])",
            "lambda": "(lambda name: (HERE / name).read_text())('d.txt')",
        }.items()
    ),
    Scenario(
        "precision_of_a_library_set_from_a_constant",
        head="from . import exact",
        body="result = exact.third()",
        files={
            "rates.py": "DIGITS = 20\n",
            "exact.py": "import decimal\nfrom . import rates\n"
            "decimal.DefaultContext.Emax = 900000 + rates.DIGITS\n"
            "def third():\n    return decimal.DefaultContext.Emax\n",
        },
        change={"rates.py": "DIGITS = 21\n"},
        named=["SELF/rates.py::DIGITS"],
    ),
    Scenario(
        "attribute_that_only_who_set_it_knows",
        head="from . import app",
        body="result = app.chosen_by_plug",
        files={
            "app.py": "",
            "plug.py": "from . import app\napp.chosen_by_plug = 2\n",
            "test_other.py": _SOMEONE_ELSES.format("plug"),
        },
        change={"plug.py": "from . import app\napp.chosen_by_plug = 3\n"},
        named=["SELF/plug.py::#effects"],
    ),
    Scenario(
        "function_body",
        head="from .helper import price",
        body="result = price(2)",
        files={"helper.py": "def price(x):\n    return x * 2\n"},
        change={"helper.py": "def price(x):\n    return x * 3\n"},
        named=["function changed: SELF/helper.py::price"],
        forms=EVERY,
    ),
    Scenario(
        "function_called_by_function",
        head="from . import helper",
        body="result = helper.price(2)",
        files={
            "deep.py": "def rate():\n    return 2\n",
            "helper.py": "from .deep import rate\ndef price(x):\n    return x * rate()\n",
        },
        change={"deep.py": "def rate():\n    return 3\n"},
        named=["function changed: SELF/deep.py::rate"],
        forms=EVERY,
    ),
    Scenario(
        "own_body",
        files={"test_it.py": _test("assert 1 + 1 == 2")},
        change={"test_it.py": _test("assert 1 + 2 == 3")},
    ),
    Scenario(
        "constant_by_value",
        head="from .rates import RATE",
        body="result = RATE * 2",
        files={"rates.py": "RATE = 2\n"},
        change={"rates.py": "RATE = 3\n"},
        named=["function changed: SELF/rates.py::"],
        forms=EVERY,
    ),
    Scenario(
        "constant_through_two_modules",
        head="from .outer import RATE",
        body="result = RATE * 2",
        files={"inner.py": "BASE = 2\n", "outer.py": "from .inner import BASE as RATE\n"},
        change={"inner.py": "BASE = 3\n"},
        named=["function changed: SELF/inner.py::"],
        forms=EVERY,
    ),
    Scenario(
        "constant_as_default_argument",
        head="from .helper import price",
        body="result = price()",
        files={
            "rates.py": "RATE = 2\n",
            "helper.py": "from .rates import RATE\ndef price(x=RATE):\n    return x\n",
        },
        change={"rates.py": "RATE = 3\n"},
        forms=EVERY,
    ),
    Scenario(
        "default_argument_itself",
        head="from .helper import price",
        body="result = price()",
        files={"helper.py": "def price(x=2):\n    return x\n"},
        change={"helper.py": "def price(x=3):\n    return x\n"},
        forms=EVERY,
    ),
    Scenario(
        "constant_imported_inside_the_body",
        body="from .rates import RATE\nresult = RATE * 2",
        files={"rates.py": "RATE = 2\n"},
        change={"rates.py": "RATE = 3\n"},
        forms=EVERY,
    ),
    Scenario(
        "enum_only",
        head="from .kinds import Kind",
        body="result = Kind.A.value",
        files={"kinds.py": "import enum\nclass Kind(enum.Enum):\n    A = 1\n"},
        change={"kinds.py": "import enum\nclass Kind(enum.Enum):\n    A = 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "dataclass_only",
        head="from .point import Point",
        body="result = Point().x",
        files={"point.py": _point(1)},
        change={"point.py": _point(2)},
        forms=EVERY,
    ),
    Scenario(
        "class_attribute_elsewhere",
        head="from .derived import Derived",
        body="result = Derived().limit",
        files={
            "base.py": "class Base:\n    limit = 1\n",
            "derived.py": "from .base import Base\nclass Derived(Base):\n    pass\n",
        },
        change={"base.py": "class Base:\n    limit = 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "method_added_in_subclass",
        head="from .derived import Derived",
        body="result = Derived().size()",
        files={
            "base.py": "class Base:\n    def size(self):\n        return 1\n",
            "derived.py": "from .base import Base\nclass Derived(Base):\n    pass\n",
        },
        change={
            "derived.py": """
            from .base import Base
            class Derived(Base):
                def size(self):
                    return 2
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "method_added_in_middle_base",
        head="from .leaf import Leaf",
        body="result = Leaf().size()",
        files={
            "base.py": "class Base:\n    def size(self):\n        return 1\n",
            "middle.py": "from .base import Base\nclass Middle(Base):\n    pass\n",
            "leaf.py": "from .middle import Middle\nclass Leaf(Middle):\n    pass\n",
        },
        change={
            "middle.py": """
            from .base import Base
            class Middle(Base):
                def size(self):
                    return 2
            """
        },
    ),
    Scenario(
        "bases_reordered",
        head="from .both import Both",
        body="result = Both().size()",
        files={
            "both.py": """
            class A:
                def size(self):
                    return 1
            class B:
                def size(self):
                    return 2
            class Both(A, B):
                pass
            """
        },
        change={
            "both.py": """
            class A:
                def size(self):
                    return 1
            class B:
                def size(self):
                    return 2
            class Both(B, A):
                pass
            """
        },
    ),
    Scenario(
        "override_in_subclass_made_elsewhere",
        head="from .shapes import Square\nfrom .areas import area",
        body="result = area(Square())",
        files={
            "areas.py": "def area(shape):\n    return shape.size() * 2\n",
            "base.py": "class Shape:\n    def size(self):\n        return 1\n",
            "shapes.py": "from .base import Shape\nclass Square(Shape):\n    pass\n",
        },
        change={
            "shapes.py": """
            from .base import Shape
            class Square(Shape):
                def size(self):
                    return 4
            """
        },
    ),
    Scenario(
        "special_method_added",
        head="from .bag import Bag",
        body="result = bool(Bag())",
        files={"bag.py": "class Bag:\n    pass\n"},
        change={"bag.py": "class Bag:\n    def __len__(self):\n        return 0\n"},
    ),
    Scenario(
        "property_body",
        head="from .point import Point",
        body="result = Point().x",
        files={"point.py": "class Point:\n    @property\n    def x(self):\n        return 1\n"},
        change={"point.py": "class Point:\n    @property\n    def x(self):\n        return 2\n"},
    ),
    Scenario(
        "metaclass_elsewhere",
        head="from .made import Made",
        body="result = Made.tag",
        files={
            "meta.py": """
            class Meta(type):
                def __new__(cls, name, bases, body):
                    return super().__new__(cls, name, bases, {**body, "tag": 1})
            """,
            "made.py": "from .meta import Meta\nclass Made(metaclass=Meta):\n    pass\n",
        },
        change={
            "meta.py": """
            class Meta(type):
                def __new__(cls, name, bases, body):
                    return super().__new__(cls, name, bases, {**body, "tag": 2})
            """
        },
    ),
    Scenario(
        "init_subclass_hook",
        head="from .made import Made",
        body="result = Made.tag",
        files={
            "base.py": "class Base:\n    def __init_subclass__(cls):\n        cls.tag = 1\n",
            "made.py": "from .base import Base\nclass Made(Base):\n    pass\n",
        },
        change={"base.py": "class Base:\n    def __init_subclass__(cls):\n        cls.tag = 2\n"},
    ),
    Scenario(
        "descriptor_elsewhere",
        head="from .owner import Owner",
        body="result = Owner().x",
        files={
            "field.py": "class Field:\n    def __get__(self, one, owner):\n        return 1\n",
            "owner.py": "from .field import Field\nclass Owner:\n    x = Field()\n",
        },
        change={"field.py": "class Field:\n    def __get__(self, one, owner):\n        return 2\n"},
    ),
    Scenario(
        "decorator_body",
        head="from .helper import price",
        body="result = price(2)",
        files={
            "noisy.py": _doubling(2),
            "helper.py": "from .noisy import times\n@times\ndef price(x):\n    return x\n",
        },
        change={"noisy.py": _doubling(3)},
        forms=EVERY,
    ),
    Scenario(
        "decorator_that_replaces",
        head="from .helper import price",
        body="result = price",
        files={
            "calls.py": "def call(f):\n    return f() + 1\n",
            "helper.py": "from .calls import call\n@call\ndef price():\n    return 1\n",
        },
        change={"calls.py": "def call(f):\n    return f() + 2\n"},
    ),
    Scenario(
        "import_time_call",
        head="from .table import TABLE",
        body="result = TABLE[0]",
        files={
            "build.py": "def build():\n    return [1]\n",
            "table.py": "from .build import build\nTABLE = build()\n",
        },
        change={"build.py": "def build():\n    return [2]\n"},
        forms=EVERY,
    ),
    Scenario(
        "import_time_call_of_another_module_body",
        head="from . import settings\nfrom . import setup",
        body="result = settings.LIMIT",
        files={
            "settings.py": "LIMIT = 1\ndef configure(n):\n    global LIMIT\n    LIMIT = n\n",
            "setup.py": "from . import settings\nsettings.configure(5)\n",
        },
        change={"setup.py": "from . import settings\nsettings.configure(6)\n"},
    ),
    Scenario(
        "registry_filled_by_import",
        head="from . import plugins\nfrom .registry import REGISTRY",
        body="result = REGISTRY['a']()",
        files={
            "registry.py": _REGISTRY,
            "plugins.py": "from .registry import register\n@register\ndef a():\n    return 1\n",
        },
        change={
            "plugins.py": "from .registry import register\n@register\ndef a():\n    return 2\n"
        },
        forms=EVERY,
    ),
    Scenario(
        "registry_filled_by_a_module_that_conftest_imports",
        head="from .registry import REGISTRY",
        body="result = REGISTRY['a']",
        files={
            "conftest.py": "from . import plugins\n",
            "registry.py": "REGISTRY = {}\n",
            "plugins.py": "from .registry import REGISTRY\nREGISTRY['a'] = 1\n",
        },
        change={"plugins.py": "from .registry import REGISTRY\nREGISTRY['a'] = 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "registry_filled_by_a_module_another_test_imports",
        files={
            "registry.py": "REGISTRY = {}\n",
            "plugins.py": "from .registry import REGISTRY\nREGISTRY['a'] = 1\n",
            "test_a.py": """
            from counter import count
            from . import plugins

            def test_a():
                count("SELF.a")
                assert plugins
            """,
            "test_b.py": """
            from counter import count
            from .registry import REGISTRY

            def test_b():
                count("SELF.b")
                assert REGISTRY.get("a", 0) < 3
            """,
        },
        change={"plugins.py": "from .registry import REGISTRY\nREGISTRY['a'] = 2\n"},
    ),
    Scenario(
        "registry_entry_added",
        head="from . import plugins\nfrom .registry import REGISTRY",
        body="result = sorted(REGISTRY)",
        files={
            "registry.py": _REGISTRY,
            "plugins.py": "from .registry import register\n@register\ndef a():\n    return 1\n",
        },
        change={
            "plugins.py": """
            from .registry import register
            @register
            def a():
                return 1
            @register
            def b():
                return 1
            """
        },
    ),
    Scenario(
        "singledispatch_registration",
        head="from .show import show\nfrom . import more",
        body="result = show(1)",
        files={
            "show.py": """
            from functools import singledispatch
            @singledispatch
            def show(x):
                return "any"
            """,
            "more.py": "\n",
        },
        change={
            "more.py": """
            from .show import show
            @show.register
            def _(x: int):
                return "int"
            """
        },
    ),
    Scenario(
        "singledispatch_implementation",
        head="from .show import show\nfrom . import more",
        body="result = show(1)",
        files={
            "show.py": """
            from functools import singledispatch
            @singledispatch
            def show(x):
                return "any"
            """,
            "more.py": "from .show import show\n@show.register\ndef _(x: int):\n    return 'a'\n",
        },
        change={
            "more.py": "from .show import show\n@show.register\ndef _(x: int):\n    return 'b'\n"
        },
    ),
    Scenario(
        "star_import",
        head="from .names import *",
        body="result = price(2)",
        files={"names.py": "def price(x):\n    return x\n"},
        change={"names.py": "def price(x):\n    return x + 1\n"},
    ),
    Scenario(
        "star_import_shadowed_by_new_name",
        head="from .names import *\nfrom .more import *",
        body="result = price(2)",
        files={"names.py": "def price(x):\n    return x\n", "more.py": "def other():\n    pass\n"},
        change={"more.py": "def other():\n    pass\ndef price(x):\n    return x + 1\n"},
    ),
    Scenario(
        "star_import_narrowed_by_all",
        head="from .names import *\nprice = globals().get('price')",
        body="result = price",
        files={"names.py": "def price(x):\n    return x\n"},
        change={"names.py": "__all__ = []\ndef price(x):\n    return x\n"},
    ),
    Scenario(
        "star_import_hides_builtin",
        head="from .names import *",
        body="result = len([1])",
        files={"names.py": "def other(x):\n    return x\n"},
        change={"names.py": "def other(x):\n    return x\ndef len(x):\n    return 7\n"},
    ),
    Scenario(
        "getattr_dispatch",
        head="from . import handlers",
        body="name = 'on_' + 'start'\nresult = getattr(handlers, name)()",
        files={"handlers.py": "def on_start():\n    return 1\n"},
        change={"handlers.py": "def on_start():\n    return 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "getattr_dispatch_finds_a_new_name",
        head="from . import handlers",
        body="name = 'on_' + 'stop'\nresult = getattr(handlers, name, None)",
        files={"handlers.py": "def on_start():\n    return 1\n"},
        change={"handlers.py": "def on_start():\n    return 1\ndef on_stop():\n    return 1\n"},
    ),
    Scenario(
        "names_of_a_module_listed",
        head="from . import handlers",
        body="result = [n for n in dir(handlers) if n.startswith('on_')]",
        files={"handlers.py": "def on_start():\n    return 1\n"},
        change={"handlers.py": "def on_start():\n    return 1\ndef on_stop():\n    return 1\n"},
    ),
    Scenario(
        "hasattr_of_a_new_method",
        head="from .thing import Thing",
        body="result = hasattr(Thing(), 'go')",
        files={"thing.py": "class Thing:\n    pass\n"},
        change={"thing.py": "class Thing:\n    def go(self):\n        pass\n"},
    ),
    Scenario(
        "subclasses_asked_for",
        head="from .base import Base\nfrom . import more",
        body="result = len(Base.__subclasses__())",
        files={
            "base.py": "class Base:\n    pass\n",
            "more.py": "from .base import Base\nclass A(Base):\n    pass\n",
        },
        change={
            "more.py": """
            from .base import Base
            class A(Base):
                pass
            class B(Base):
                pass
            """
        },
    ),
    Scenario(
        "module_getattr",
        head="from . import lazy",
        body="result = lazy.answer",
        files={"lazy.py": "def __getattr__(name):\n    return 1\n"},
        change={"lazy.py": "def __getattr__(name):\n    return 2\n"},
    ),
    Scenario(
        "module_getattr_added",
        head="from . import lazy",
        body="result = getattr(lazy, 'answer', 0)",
        files={"lazy.py": "OTHER = 1\n"},
        change={"lazy.py": "OTHER = 1\ndef __getattr__(name):\n    return 2\n"},
    ),
    Scenario(
        "dynamic_import",
        body="import importlib\nresult = importlib.import_module('SELF.' + 'found').VALUE",
        files={"found.py": "VALUE = 1\n"},
        change={"found.py": "VALUE = 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "dynamic_import_by_builtin",
        group="any module",
        body="result = __import__('SELF.' + 'found', fromlist=['VALUE']).VALUE",
        files={"found.py": "VALUE = 1\n"},
        change={"found.py": "VALUE = 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "dynamic_import_in_a_helper",
        head="from .helper import load",
        body="result = load('found').VALUE",
        files={
            "helper.py": """
            import importlib
            def load(name):
                return importlib.import_module('.' + name, __package__)
            """,
            "found.py": "VALUE = 1\n",
        },
        change={"found.py": "VALUE = 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "module_from_sys_modules",
        group="any module",
        head="from . import found",
        body="import sys\nresult = sys.modules['SELF.' + 'other'].VALUE",
        files={"found.py": "from . import other\n", "other.py": "VALUE = 1\n"},
        change={"other.py": "VALUE = 2\n"},
    ),
    Scenario(
        "module_of_another_test_from_sys_modules",
        group="any module",
        files={
            "other.py": "VALUE = 1\n",
            "test_a.py": """
            from counter import count
            from . import other

            def test_a():
                count("SELF.a")
                assert other
            """,
            "test_b.py": """
            import sys
            from counter import count

            def test_b():
                count("SELF.b")
                assert sys.modules["SELF." + "other"].VALUE < 3
            """,
        },
        change={"other.py": "VALUE = 2\n"},
        stale=["b"],
        free=["a"],
    ),
    Scenario(
        "presence_in_sys_modules_by_a_computed_name",
        group="any module",
        files={
            "other.py": "VALUE = 1\n",
            "test_a.py": """
            from counter import count
            from . import other

            def test_a():
                count("SELF.a")
            """,
            "test_b.py": """
            import sys
            from counter import count

            def test_b():
                count("SELF.b")
                name = "SELF." + "other"
                assert (name in sys.modules) or __package__
            """,
        },
        change={
            "test_a.py": """
            from counter import count

            def test_a():
                count("SELF.a")
                assert count
            """
        },
    ),
    Scenario(
        "presence_in_sys_modules_of_what_was_the_callers_module",
        group="any module",
        files={
            "other.py": "VALUE = 1\n",
            "naming.py": """
            import sys

            def has_sibling(leaf):
                name = sys._getframe(1).f_globals["__name__"]
                name = name.rpartition(".")[0] + "." + leaf
                return name in sys.modules
            """,
            "test_a.py": """
            from counter import count
            from . import other

            def test_a():
                count("SELF.a")
            """,
            "test_b.py": """
            from counter import count
            from .naming import has_sibling

            def test_b():
                count("SELF.b")
                assert has_sibling("oth" + "er") in (True, False)
            """,
        },
        change={
            "test_a.py": """
            from counter import count

            def test_a():
                count("SELF.a")
                assert count
            """
        },
    ),
    Scenario(
        "new_function_gives_a_name_a_meaning",
        head="from .helper import price",
        body="result = price(2)",
        files={
            "helper.py": """
            def price(x):
                try:
                    return surcharge(x)
                except NameError:
                    return x
            """
        },
        change={
            "helper.py": """
            def price(x):
                try:
                    return surcharge(x)
                except NameError:
                    return x
            def surcharge(x):
                return x + 1
            """
        },
        named=("surcharge",),
        forms=EVERY,
    ),
    Scenario(
        "another_function_begins_to_bind_a_global_name",
        files={
            "helper.py": """
            def prepare():
                limit = 3
                return limit
            def price(x):
                try:
                    return x + limit
                except NameError:
                    return x
            """,
            "test_a.py": """
            from counter import count
            from .helper import prepare, price

            def test_a():
                count("SELF.a")
                assert prepare()

            def test_b():
                count("SELF.b")
                assert price(2) > 1
            """,
        },
        change={
            "helper.py": """
            def prepare():
                global limit
                limit = 3
                return limit
            def price(x):
                try:
                    return x + limit
                except NameError:
                    return x
            """
        },
    ),
    Scenario(
        "constant_that_a_condition_binds",
        head="from . import rates",
        body="result = rates.price()",
        files={"rates.py": "if RATE := 2:\n    pass\ndef price():\n    return RATE\n"},
        change={"rates.py": "if RATE := 3:\n    pass\ndef price():\n    return RATE\n"},
        forms=EVERY,
    ),
    Scenario(
        "nested_function_that_ran",
        head="from .helper import make",
        body="result = make(2)()",
        files={
            "helper.py": """
            def make(x):
                def price():
                    return x * 2
                return price
            """
        },
        change={
            "helper.py": """
            def make(x):
                def price():
                    return x * 3
                return price
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "method_of_a_nested_class_that_ran",
        head="from .helper import make",
        body="result = make(2).price()",
        files={
            "helper.py": """
            def make(x):
                class Box:
                    class Inner:
                        def price(self):
                            return [y * 2 for y in (x,)]
                return Box.Inner()
            """
        },
        change={
            "helper.py": """
            def make(x):
                class Box:
                    class Inner:
                        def price(self):
                            return [y * 3 for y in (x,)]
                return Box.Inner()
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "lambda_in_a_nested_function",
        head="from .helper import make",
        body="result = make(2)()()",
        files={
            "helper.py": """
            def make(x):
                def price():
                    return lambda: x * 2
                return price
            """
        },
        change={
            "helper.py": """
            def make(x):
                def price():
                    return lambda: x * 3
                return price
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "nested_function_that_is_declared_global",
        head="from .helper import make",
        body="result = make(2)",
        files={
            "helper.py": """
            def make(x):
                global price
                def price():
                    return x * 2
                return price()
            """
        },
        change={
            "helper.py": """
            def make(x):
                global price
                def price():
                    return x * 3
                return price()
            """
        },
        forms=(Form.OUTCOME, Form.FUNCTION),
    ),
    Scenario(
        "docstring_of_a_nested_function",
        head="from .helper import make",
        body="result = make(2).__doc__",
        files={
            "helper.py": """
            def make(x):
                def price():
                    '''two'''
                    return x
                return price
            """
        },
        change={
            "helper.py": """
            def make(x):
                def price():
                    '''three'''
                    return x
                return price
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "default_of_a_nested_function",
        head="from .helper import make",
        body="result = make(2).__defaults__",
        files={
            "helper.py": """
            def make(x):
                def price(factor=2):
                    return x * factor
                return price
            """
        },
        change={
            "helper.py": """
            def make(x):
                def price(factor=3):
                    return x * factor
                return price
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "nested_decorator_around_another_function",
        head="from .helper import make",
        body="result = make(2)",
        files={
            "helper.py": """
            def twice(function):
                def inner(x):
                    return function(x) * 2
                return inner

            @twice
            def make(x):
                return x
            """
        },
        change={
            "helper.py": """
            def twice(function):
                def inner(x):
                    return function(x) * 3
                return inner

            @twice
            def make(x):
                return x
            """
        },
        forms=EVERY,
    ),
    Scenario(
        "nested_function_that_left_state_in_an_earlier_test",
        files={
            "helper.py": """
            def make():
                rows = []
                class Store:
                    def fill(self):
                        rows.append(2)
                    def all(self):
                        return rows
                return Store()

            STORE = make()
            """,
            "test_a.py": """
            from counter import count
            from .helper import STORE

            def test_a():
                count("SELF.a")
                STORE.fill()

            def test_b():
                count("SELF.b")
                assert STORE.all()
            """,
        },
        change={
            "helper.py": """
            def make():
                rows = []
                class Store:
                    def fill(self):
                        rows.append(3)
                    def all(self):
                        return rows
                return Store()

            STORE = make()
            """
        },
    ),
    Scenario(
        "module_that_a_hook_imports",
        files={
            "conftest.py": """
            def pytest_collection_modifyitems():
                from . import loading
                loading.load()
            """,
            "loading.py": """
            from . import state

            def load():
                from . import heavy
                state.VALUE = heavy.X
            """,
            "state.py": "VALUE = 1\n",
            "heavy.py": "X = 2\n",
            "test_a.py": """
            from counter import count
            from . import state

            def test_a():
                count("SELF.a")
                assert state.VALUE
            """,
        },
        change={"heavy.py": "X = 3\n"},
        group="hooks of sessions",
    ),
    Scenario(
        "module_that_a_librarys_lazy_attribute_imported_for_an_earlier_test",
        files={
            "site-packages/ladder_lazy.py": """
                import importlib, sys
                def attach(package, attributes):
                    def __getattr__(name):
                        module = importlib.import_module(f"{package}.{attributes[name]}")
                        found = vars(sys.modules[package])[name] = getattr(module, name)
                        return found
                    return __getattr__
            """,
            **_metadata("ladder_lazy", "1.0.0"),
            "lazy/__init__.py": """
                import ladder_lazy
                __getattr__ = ladder_lazy.attach(__name__, {"RATE": "rates"})
            """,
            "lazy/rates.py": "RATE = 1\n",
            **{
                f"test_{name}.py": f"""
                from counter import count
                from SELF import lazy

                def test_it():
                    count("SELF.{name}")
                    assert lazy.RATE
                """
                for name in "ab"
            },
        },
        change={"lazy/rates.py": "RATE = 2\n"},
    ),
    Scenario(
        "module_that_a_lazy_attribute_imported_for_an_earlier_test",
        files={
            "helper.py": """
            def __getattr__(name):
                from . import heavy
                found = globals()[name] = getattr(heavy, name)
                return found
            """,
            "heavy.py": "RATE = 2\n",
            "test_a.py": """
            from counter import count
            from . import helper

            def test_a():
                count("SELF.a")
                assert helper.RATE

            def test_b():
                count("SELF.b")
                assert helper.RATE
            """,
        },
        change={"heavy.py": "RATE = 3\n"},
    ),
    Scenario(
        "module_that_only_a_string_names",
        files={
            "helper.py": "def other():\n    from . import heavy\n    return heavy\n",
            "heavy.py": "X = 1\n",
            "test_a.py": """
            from counter import count
            from . import helper

            def test_a(monkeypatch):
                count("SELF.a")
                monkeypatch.setattr("SELF.heavy.X", 3)
                assert helper

            def test_b(monkeypatch):
                count("SELF.b")
                monkeypatch.setattr("SELF.heavy.X", 3)
                assert helper
            """,
        },
        change={"heavy.py": "X = 2\n"},
    ),
    Scenario(
        "module_that_a_function_imports",
        head="from .helper import price",
        body="result = price(2)",
        files={
            "helper.py": """
            def price(x):
                from . import rates
                return rates.RATE * x
            """,
            "rates.py": "from .deep import RATE\n",
            "deep.py": "RATE = 2\n",
        },
        change={"deep.py": "RATE = 3\n"},
        forms=EVERY,
        named=("deep.py",),
    ),
    Scenario(
        "module_that_a_memoized_function_imported_for_an_earlier_test",
        files={
            "helper.py": """
            import functools

            @functools.cache
            def rate():
                from .deep import RATE
                return RATE
            """,
            "deep.py": "RATE = 2\n",
            "test_a.py": """
            from counter import count
            from .helper import rate

            def test_a():
                count("SELF.a")
                assert rate()

            def test_b():
                count("SELF.b")
                assert rate()
            """,
        },
        change={"deep.py": "RATE = 3\n"},
    ),
    Scenario(
        "module_that_a_finder_of_the_project_makes",
        head="from .virtual.made import RATE",
        files={
            "values.py": "def rate():\n    return 2\n",
            "virtual/__init__.py": """
            import sys, types
            from importlib.machinery import ModuleSpec
            from .. import values

            class Finder:
                def find_spec(self, name, path, target=None):
                    if name.rpartition(".")[0] == __name__:
                        return ModuleSpec(name, self)

                def create_module(self, spec):
                    return types.ModuleType(spec.name)

                def exec_module(self, module):
                    if module.__name__.endswith("bad"):
                        raise ImportError(module.__name__)
                    module.RATE = values.rate()
                    module.__file__ = values.__file__

            sys.meta_path.append(Finder())
            """,
        },
        body="""
            import importlib
            result = RATE
            with pytest.raises(ImportError):
                importlib.import_module(".virtual.bad", __package__)
            importlib.import_module(".virtual.late", __package__)
            """,
        forms=EVERY,
        change={"values.py": "def rate():\n    return 3\n"},
        group="asked for each import",
    ),
    Scenario(
        "module_that_is_executed_when_an_earlier_test_uses_it",
        files={
            "name.txt": "deep_SELF",
            "helper.py": """
            import importlib.util, sys
            from pathlib import Path

            sys.path.append(str(Path(__file__).parent))

            def lazily(name):
                spec = importlib.util.find_spec(name)
                spec.loader = importlib.util.LazyLoader(spec.loader)
                sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module

            deep = lazily(Path(__file__).with_name("name.txt").read_text())
            """,
            "deep_SELF.py": "RATE = 2\n",
            **{
                f"test_{name}.py": f"""
                from counter import count
                from .helper import deep

                def test_{name}():
                    count("SELF.{name}")
                    assert deep.RATE
                """
                for name in "ab"
            },
        },
        change={"deep_SELF.py": "RATE = 3\n"},
        group="found by its name",
    ),
    Scenario(
        "module_that_was_asked_for_by_a_name_in_a_file_for_an_earlier_test",
        files={
            "names.txt": "SELF.deep:RATE",
            "helper.py": """
            import functools, importlib
            from pathlib import Path

            NAMES = Path(__file__).with_name("names.txt")

            @functools.cache
            def value():
                name, _, attribute = NAMES.read_text().partition(":")
                return getattr(importlib.import_module(name), attribute)
            """,
            "deep.py": "RATE = 2\n",
            **{
                f"test_{name}.py": f"""
                from counter import count
                from .helper import value

                def test_{name}():
                    count("SELF.{name}")
                    assert value()
                """
                for name in "ab"
            },
        },
        change={"deep.py": "RATE = 3\n"},
        group="found by its name",
    ),
    Scenario(
        "script_whose_name_has_no_suffix",
        files={
            "script": "X = 1\n",
            "test_it.py": """
            import importlib.util
            from importlib.machinery import SourceFileLoader
            from pathlib import Path
            from counter import count

            loader = SourceFileLoader("script_SELF", str(Path(__file__).with_name("script")))
            script = importlib.util.module_from_spec(
                importlib.util.spec_from_loader(loader.name, loader)
            )
            loader.exec_module(script)

            def test_it():
                count("SELF.it")
                assert script.X
            """,
        },
        change={"script": "X = 2\n"},
        group="found by its name",
        named=["file changed: SELF/script"],
    ),
    Scenario(
        "module_that_a_function_called_at_import_imports",
        head="from .helper import RATE",
        body="result = RATE",
        files={
            "helper.py": """
            def load():
                from . import deep
                return deep.RATE

            RATE = load()
            """,
            "deep.py": "RATE = 2\n",
        },
        change={"deep.py": "RATE = 3\n"},
        forms=EVERY,
    ),
    Scenario(
        "module_that_a_function_found_by_a_computed_name_imports",
        head="from . import helper",
        body="result = getattr(helper, 'lo' + 'ad')()",
        files={
            "helper.py": """
            def load():
                from . import deep
                return deep.RATE
            """,
            "deep.py": "RATE = 2\n",
        },
        change={"deep.py": "RATE = 3\n"},
        forms=EVERY,
    ),
    Scenario(
        "module_that_a_function_could_not_import",
        head="from .helper import rate",
        body="result = rate()",
        files={
            "helper.py": """
            def rate():
                try:
                    from .special import RATE
                except ImportError:
                    return 2
                return RATE
            """
        },
        change={"special.py": "RATE = 3\n"},
        forms=EVERY,
    ),
    Scenario(
        "module_that_a_function_imported_for_an_earlier_test_and_that_registers_itself",
        files={
            "registry.py": "KNOWN = {}\ndef known():\n    return KNOWN\n",
            "plugins.py": """
            def load():
                from . import extra
                return extra
            """,
            "extra.py": "from .registry import KNOWN\nKNOWN['extra'] = 2\n",
            "test_a.py": """
            from counter import count
            from .plugins import load
            from .registry import known

            def test_a():
                count("SELF.a")
                assert load()

            def test_b():
                count("SELF.b")
                assert known()
            """,
        },
        change={"extra.py": "from .registry import KNOWN\nKNOWN['extra'] = 3\n"},
    ),
    Scenario(
        "first_importer_is_another_test",
        files={
            "slow.py": "from .deep import make\nVALUE = make()\n",
            "deep.py": "def make():\n    return 1\n",
            "test_a.py": """
            from counter import count

            def test_a():
                count("SELF.a")
                from .slow import VALUE
                assert VALUE

            def test_b():
                count("SELF.b")
                from .slow import VALUE
                assert VALUE

            def test_c():
                count("SELF.c")
                assert True
            """,
        },
        change={"deep.py": "def make():\n    return 2\n"},
        stale=("a", "b"),
        free=["c"],  # shares a unit with them
    ),
    Scenario(
        "first_importer_by_name",
        group="any module",
        files={
            "slow.py": "VALUE = 1\n",
            "test_a.py": """
            from counter import count

            def test_a():
                count("SELF.a")
                assert __import__("SELF.slow", fromlist=["VALUE"]).VALUE

            def test_b():
                count("SELF.b")
                assert __import__("SELF.slow", fromlist=["VALUE"]).VALUE
            """,
        },
        change={"slow.py": "VALUE = 2\n"},
    ),
    Scenario(
        "unpickled_class",
        files={
            "kinds.py": "class Kind:\n    limit = 1\n",
            "test_a.py": """
            import pathlib, pickle
            from counter import count
            HERE = pathlib.Path(__file__).parent

            def test_a():
                count("SELF.a")
                assert pickle.loads(b"cSELF.kinds\\nKind\\n.").limit

            def test_b():
                count("SELF.b")
                assert pickle.loads(b"cSELF.kinds\\nKind\\n.").limit
            """,
        },
        change={"kinds.py": "class Kind:\n    limit = 2\n"},
    ),
    Scenario(
        "lru_cache_shared_between_tests",
        files={
            "helper.py": """
            from functools import lru_cache
            from .deep import rate

            @lru_cache
            def price(x):
                return x * rate()
            """,
            "deep.py": "def rate():\n    return 2\n",
            "test_a.py": """
            from counter import count
            from .helper import price

            def test_a():
                count("SELF.a")
                assert price(1) > 1

            def test_b():
                count("SELF.b")
                assert price(1) > 1
            """,
        },
        change={"deep.py": "def rate():\n    return 3\n"},
        named=["function changed: SELF/deep.py::rate"],
    ),
    Scenario(
        "singleton_made_by_an_earlier_test",
        files={
            "store.py": """
            from .make import Store
            _store = None

            def store():
                global _store
                if _store is None:
                    _store = Store()
                return _store
            """,
            "make.py": "class Store:\n    def __init__(self):\n        self.x = 1\n",
            "test_a.py": """
            from counter import count
            from .store import store

            def test_a():
                count("SELF.a")
                assert store().x

            def test_b():
                count("SELF.b")
                assert store().x
            """,
        },
        change={"make.py": "class Store:\n    def __init__(self):\n        self.x = 2\n"},
    ),
    Scenario(
        "cached_property_filled_by_an_earlier_test",
        files={
            "model.py": """
            from functools import cached_property
            from .deep import rate

            class Model:
                @cached_property
                def rate(self):
                    return rate()

            MODEL = Model()
            """,
            "deep.py": "def rate():\n    return 2\n",
            "test_a.py": """
            from counter import count
            from .model import MODEL

            def test_a():
                count("SELF.a")
                assert MODEL.rate

            def test_b():
                count("SELF.b")
                assert MODEL.rate
            """,
        },
        change={"deep.py": "def rate():\n    return 3\n"},
    ),
    Scenario(
        "thread_started_earlier",
        group="threads",
        files={
            "worker.py": """
            import queue, threading
            from .deep import rate
            asked, answered = queue.Queue(), queue.Queue()

            def serve():
                while True:
                    answered.put(asked.get() * rate())

            threading.Thread(target=serve, daemon=True).start()
            """,
            "deep.py": "def rate():\n    return 2\n",
            "test_a.py": """
            from counter import count
            from .worker import asked, answered

            def test_a():
                count("SELF.a")
                asked.put(1)
                assert answered.get(timeout=9) > 1

            def test_b():
                count("SELF.b")
                asked.put(1)
                assert answered.get(timeout=9) > 1
            """,
        },
        change={"deep.py": "def rate():\n    return 3\n"},
    ),
    Scenario(
        "thread_started_by_the_test",
        head="from concurrent.futures import ThreadPoolExecutor\nfrom .deep import rate",
        body="with ThreadPoolExecutor(1) as pool:\n    result = pool.submit(rate).result()",
        files={"deep.py": "def rate():\n    return 2\n"},
        change={"deep.py": "def rate():\n    return 3\n"},
    ),
    Scenario(
        "generator_started_at_import",
        files={
            "ticks.py": """
            from .deep import rate

            def ticks():
                while True:
                    yield rate()

            TICKS = ticks()
            next(TICKS)
            """,
            "deep.py": "def rate():\n    return 2\n",
            "test_a.py": """
            from counter import count
            from .ticks import TICKS

            def test_a():
                count("SELF.a")
                assert next(TICKS) > 1
            """,
        },
        change={"deep.py": "def rate():\n    return 3\n"},
    ),
    Scenario(
        "coroutine",
        head="import asyncio\nfrom .deep import rate",
        body="result = asyncio.run(rate())",
        files={"deep.py": "async def rate():\n    return 2\n"},
        change={"deep.py": "async def rate():\n    return 3\n"},
    ),
    Scenario(
        "monkeypatched_target_renamed",
        files={
            "helper.py": "def rate():\n    return 2\ndef price():\n    return rate()\n",
            "test_a.py": """
            from counter import count
            from . import helper

            def test_a(monkeypatch):
                count("SELF.a")
                monkeypatch.setattr("SELF.helper.rate", lambda: 5, raising=False)
                assert helper.price()
            """,
        },
        change={"helper.py": "def tariff():\n    return 2\ndef price():\n    return tariff()\n"},
    ),
    Scenario(
        "monkeypatched_target_gone",
        files={
            "helper.py": "def rate():\n    return 2\ndef price():\n    return 1\n",
            "test_a.py": """
            from counter import count
            from . import helper

            def test_a(monkeypatch):
                count("SELF.a")
                monkeypatch.setattr("SELF.helper.rate", lambda: 5, raising=False)
                assert helper.price()
            """,
        },
        change={"helper.py": "def price():\n    return 1\n"},
    ),
    Scenario(
        "mock_autospec_of_a_changed_signature",
        head="from unittest import mock\nfrom . import helper",
        body="""
        with mock.patch.object(helper, "rate", autospec=True):
            helper.rate(1)
        result = 1
        """,
        files={"helper.py": "def rate(x):\n    return 2\n"},
        change={"helper.py": "def rate(x, y=1):\n    return 2\n"},
    ),
    Scenario(
        "code_read_of_a_function_that_never_ran",
        head="from . import helper",
        body="result = helper.rate.__code__.co_consts",
        files={"helper.py": "def rate():\n    return 2\n"},
        change={"helper.py": "def rate():\n    return 3\n"},
        forms=EVERY,
    ),
    Scenario(
        "code_read_by_the_library_that_runs_it",
        head="from . import helper",
        body="result = helper.rate()",
        files={
            "helper.py": """
            from ladder_compiler import compiled
            from .more import factor

            @compiled
            def rate():
                return factor()
            """,
            "more.py": """
            from ladder_compiler import compiled

            @compiled
            def factor():
                return 2
            """,
            # As numba does: what a function calls is looked up, and no frame is made for either.
            "site-packages/ladder_compiler.py": """
            class compiled:
                def __init__(self, function):
                    self.code, self.names = function.__code__, function.__globals__

                def __call__(self):
                    called = [self.names[name] for name in self.code.co_names]
                    return [one() for one in called] or self.code.co_consts
            """,
            **_metadata("ladder_compiler", "1.0.0"),
        },
        change={
            "more.py": """
            from ladder_compiler import compiled

            @compiled
            def factor():
                return 3
            """
        },
        named=["SELF/more.py::factor"],
        forms=EVERY,
    ),
    Scenario(
        "new_module_that_hides_another_on_a_changed_path",
        head="import importlib",
        body="""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("below", "above"):
                patch.syspath_prepend(HERE / name)
            result = importlib.import_module("SELF_plug").RATE
        """,
        files={"above/readme.txt": "", "below/SELF_plug.py": "RATE = 2\n"},
        change={"above/SELF_plug.py": "RATE = 3\n"},
        named=["listing changed: SELF/above"],
    ),
    *(
        Scenario(
            f"constant_named_in_a_text_that_{module}_evaluates",
            head=f"from {module} import find\nfrom .rates import RATE",
            body=f"result = find({text!r})",
            files={
                "rates.py": "RATE = 2\n",
                f"site-packages/{module}.py": """
                import re, sys

                def find(text):
                    names = sys._getframe(1).f_globals
                    return [names.get(name) for name in re.findall("[A-Z]+", text)]
                """,
                **_metadata(module, "1.0.0"),
            },
            change={"rates.py": "RATE = 3\n"},
        )
        for module, text in (("ladder_pandas", "a > @RATE"), ("numexpr", "a * RATE"))
    ),
    *(
        Scenario(
            f"constant_in_a_local_name_of_the_callers_globals_{case}",
            group="any globals",
            head="from .finding import find\nfrom .rates import RATE",
            body="result = find('RA')",
            files={
                "rates.py": "RATE = 2\n",
                "finding.py": f"""
                import sys

                def find(start):
                    names = sys._getframe(1).f_globals
                    {found}
                """,
            },
            change={"rates.py": "RATE = 3\n"},
        )
        for case, found in {
            "asked_for_it": "return names['__name__'] and names.get('RATE')",
            "asked_for_a_computed_one": "return names['__name__'] and names[start + 'TE']",
            "handed_on": "return names['__name__'] and dict(names)[start + 'TE']",
            "kept_by_a_function": "return names['__name__'] and (lambda: names)()[start + 'TE']",
            "asked_for_it_at_once": "return sys._getframe(1).f_globals['RATE']",
            "named_twice": "also = names = names; return names['__name__'] and also[start + 'TE']",
        }.items()
    ),
    Scenario(
        "constant_in_the_globals_of_a_function_that_is_handed_on",
        group="any globals",
        head="from .finding import find\nfrom .rates import RATE\n\ndef given(): ...",
        body="result = find(given)",
        files={
            "rates.py": "RATE = 2\n",
            "finding.py": "def find(function):\n    return function.__globals__['RATE']\n",
        },
        change={"rates.py": "RATE = 3\n"},
    ),
    Scenario(
        "settings_that_load_themselves_when_pytest_looks_at_them",
        head="from ladder_lazily import Lazy\nsettings = Lazy(HERE / 'rate.txt')",
        body="result = settings.rate",
        files={
            "rate.txt": "2",
            "site-packages/ladder_lazily.py": """
            class Lazy:
                def __init__(self, path):
                    self._path = path

                def __getattr__(self, name):
                    self.rate = self._path.read_text()
                    return vars(self)[name]
            """,
            **_metadata("ladder_lazily", "1.0.0"),
        },
        change={"rate.txt": "3"},
        named=["SELF/rate.txt"],
        group="lazy settings",
    ),
    Scenario(
        "settings_taken_from_a_module_that_a_text_names",
        head="from ladder_settings import Settings",
        body="result = Settings().from_object('SELF.rates')",
        files={
            "rates.py": "RATE = 2\n",
            "test_other.py": _SOMEONE_ELSES.format("rates"),
            "site-packages/ladder_settings.py": """
            import sys

            class Settings(dict):
                def from_object(self, path):
                    __import__(path)
                    found = vars(sys.modules[path])
                    self.update((key, found[key]) for key in found if key.isupper())
                    return self
            """,
            **_metadata("ladder_settings", "1.0.0"),
        },
        change={"rates.py": "RATE = 3\n"},
    ),
    Scenario(
        "source_text_read_by_inspect",
        head="import inspect\nfrom . import helper",
        body="result = inspect.getsource(helper.rate)",
        files={"helper.py": "def rate(x):\n    return 2\n"},
        change={"helper.py": "def rate(x):\n    # twice\n    return 2\n"},
    ),
    Scenario(
        "executed_file",
        body="result = {}\nexec((HERE / 'script.py').read_text(), result)",
        files={"script.py": "x = 1\n"},
        change={"script.py": "x = 2\n"},
    ),
    Scenario(
        "text_of_a_file_that_is_executed_under_its_own_name_again",
        files={
            "rates.cfg": "from SELF.rates import RATE\n",
            "rates.py": "RATE = 1\n",
            "lib.py": """
                from pathlib import Path
                FILE = Path(__file__).parent / "rates.cfg"
                def load():
                    found = {}
                    exec(compile(FILE.read_text(), str(FILE), "exec"), found)
                    return found
            """,
            **{
                f"test_{name}.py": f"""
                from counter import count
                from SELF import lib
                def test_it():
                    count("SELF.{name}")
                    assert lib.load()
                """
                for name in "ab"
            },
        },
        change={"rates.py": "RATE = 2\n"},
    ),
    Scenario(
        "run_as_main",
        head="import runpy",
        body="result = runpy.run_module('SELF.script')['x']",
        files={"script.py": "x = 1\n"},
        change={"script.py": "x = 2\n"},
    ),
    Scenario(
        "loaded_from_a_file_location",
        head="import importlib.util",
        body="""
        spec = importlib.util.spec_from_file_location("loaded_SELF", HERE / "script.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        result = module.x
        """,
        files={"script.py": "x = 1\n"},
        change={"script.py": "x = 2\n"},
    ),
    Scenario(
        "optional_module_appears",
        head="""
        try:
            from .speedups import fast
        except ImportError:
            fast = None
        """,
        body="result = fast",
        files={},
        change={"speedups.py": "fast = 1\n"},
        forms=EVERY,
    ),
    Scenario(
        "optional_module_appears_inside_a_body",
        body="""
        try:
            from .speedups import fast
        except ImportError:
            fast = None
        result = fast
        """,
        change={"speedups.py": "fast = 1\n"},
        forms=EVERY,
    ),
    Scenario(
        "new_module_that_shadows",
        head="from .parts import price",
        body="result = price()",
        files={"parts.py": "def price():\n    return 1\n"},
        change={"parts/__init__.py": "def price():\n    return 2\n"},
        forms=EVERY,
    ),
    Scenario(
        "namespace_package_gets_another_directory",
        files={
            "conftest.py": """
                import pathlib, sys
                HERE = pathlib.Path(__file__).parent
                sys.path += [str(HERE / "one"), str(HERE / "two")]
            """,
            "one/SELF_plugins/own.py": "",
            "two/readme.txt": "",
            **{
                f"test_{name}.py": f"""
                import pkgutil
                from counter import count
                import SELF_plugins

                def test_it():
                    count("SELF.{name}")
                    assert list(pkgutil.iter_modules(SELF_plugins.__path__))
                """
                for name in "ab"
            },
        },
        change={"two/SELF_plugins/other.py": ""},
    ),
    *(
        Scenario(
            f"module_{what}_on_the_path_of_a_package",
            files={
                "places/__init__.py": """
                    import os
                    __path__.insert(0, os.path.join(os.path.dirname(__file__), "first"))
                    __path__.append(os.path.join(os.path.dirname(__file__), "last"))
                """,
                "places/first/readme.txt": "",
                "places/last/readme.txt": "",
                **files,
                **{
                    f"test_{name}.py": f"""
                    from counter import count

                    def test_it():
                        count("SELF.{name}")
                        try:
                            from SELF.places.rates import x
                        except ImportError:
                            x = 0
                        assert x < 3
                    """
                    for name in "ab"
                },
            },
            change=change,
        )
        for what, files, change in (
            ("hidden", {"places/rates.py": "x = 1\n"}, {"places/first/rates.py": "x = 2\n"}),
            ("appears", {}, {"places/last/rates.py": "x = 2\n"}),
        )
    ),
    Scenario(
        "namespace_package_gets_a_body",
        head="import SELF.space.inner as inner",
        body="result = inner.x",
        files={"space/inner.py": "x = 1\n"},
        change={"space/__init__.py": "import sys\n"},
    ),
    Scenario(
        "package_init_runs",
        head="from .parts.inner import x",
        body="result = x",
        files={"parts/__init__.py": "A = 1\n", "parts/inner.py": "from . import A as x\n"},
        change={"parts/__init__.py": "A = 2\n"},
    ),
    Scenario(
        "cycle_of_imports",
        head="from .one import x",
        body="result = x()",
        files={
            "one.py": "from . import two\ndef x():\n    return two.y()\n",
            "two.py": "from . import one\ndef y():\n    return 1\n",
        },
        change={"two.py": "from . import one\ndef y():\n    return 2\n"},
    ),
    Scenario(
        "function_passed_as_a_value",
        head="from .table import TABLE",
        body="result = TABLE['a'](1)",
        files={
            "steps.py": "def step(x):\n    return x\n",
            "table.py": "from .steps import step\nTABLE = {'a': step}\n",
        },
        change={"steps.py": "def step(x):\n    return x + 1\n"},
    ),
    Scenario(
        "lambda_in_a_table",
        head="from .table import TABLE",
        body="result = TABLE['a'](1)",
        files={"table.py": "TABLE = {'a': lambda x: x}\n"},
        change={"table.py": "TABLE = {'a': lambda x: x + 1}\n"},
    ),
    Scenario(
        "partial_at_module_level",
        head="from .table import inc",
        body="result = inc(1)",
        files={"table.py": _partial(1)},
        change={"table.py": _partial(2)},
    ),
    Scenario(
        "global_changed_by_a_function",
        head="from . import state",
        body="state.set_up()\nresult = state.X",
        files={"state.py": "X = 0\ndef set_up():\n    global X\n    X = 1\n"},
        change={"state.py": "X = 0\ndef set_up():\n    global X\n    X = 2\n"},
    ),
    Scenario(
        "identical_functions_in_two_files",
        head="from .left import f as left\nfrom .right import f as right",
        body="result = left() + right()",
        files={"left.py": "def f():\n    return 1\n", "right.py": "def f():\n    return 1\n"},
        change={"right.py": "def f():\n    return 2\n"},
        named=["function changed: SELF/right.py::f"],
    ),
    Scenario(
        "type_hints_read_at_run_time",
        head="import typing\nfrom .point import area",
        body="result = typing.get_type_hints(area)",
        files={"point.py": "def area(x: int) -> int:\n    return x\n"},
        change={"point.py": "def area(x: float) -> float:\n    return x\n"},
    ),
    Scenario(
        "docstring_read",
        head="from .point import area",
        body="result = area.__doc__",
        files={"point.py": 'def area():\n    """One."""\n'},
        change={"point.py": 'def area():\n    """Two."""\n'},
    ),
    Scenario(
        "docstrings_of_a_whole_module",
        head="from . import point",
        body="result = [getattr(point, name).__doc__ for name in dir(point)]",
        files={"point.py": 'def area():\n    """One."""\n'},
        change={"point.py": 'def area():\n    """Two."""\n'},
    ),
    Scenario(
        "docstring_taken_by_a_decorator",
        head="from .command import main, sub",
        body="result = main.help",
        files={
            "command.py": """
            class Group:
                help = ""

                def command(self, f):
                    self.help += f.__doc__
                    return f

            main = Group()

            @main.command
            def sub():
                \"\"\"One.\"\"\"
            """
        },
        change={
            "command.py": """
            class Group:
                help = ""

                def command(self, f):
                    self.help += f.__doc__
                    return f

            main = Group()

            @main.command
            def sub():
                \"\"\"Two.\"\"\"
            """
        },
    ),
    Scenario(
        "function_that_a_hook_ran_between_tests",
        files={
            "helper.py": """
            from functools import cache
            from .deep import rate

            @cache
            def price():
                return rate()
            """,
            "deep.py": "def rate():\n    return 1\n",
            "conftest.py": """
            def pytest_runtest_logfinish(nodeid):
                from .helper import price
                price()

            def pytest_collection_finish(session):
                from .helper import price
                price()
            """,
            "test_a.py": """
            from counter import count
            from .helper import price

            def test_a():
                count("SELF.a")
                assert price()
            """,
        },
        change={"deep.py": "def rate():\n    return 2\n"},
        group="hooks of sessions",
    ),
    Scenario(
        "function_that_a_test_which_is_not_cached_ran",
        files={
            "helper.py": """
            from functools import cache
            from .deep import rate

            @cache
            def price():
                return rate()
            """,
            "deep.py": "def rate():\n    return 1\n",
            "test_a.py": """
            import pytest
            from counter import count
            from .helper import price

            @pytest.mark.cached(False)
            def test_a():
                assert price()

            def test_b():
                count("SELF.b")
                assert price()
            """,
        },
        change={"deep.py": "def rate():\n    return 2\n"},
    ),
    Scenario(
        "exception_class_caught",
        head="from .errors import Broken\nfrom .work import work",
        body="""
        try:
            result = work()
        except Broken:
            result = 0
        """,
        files={
            "errors.py": "class Broken(ValueError):\n    pass\n",
            "work.py": "from .errors import Broken\ndef work():\n    raise Broken()\n",
        },
        change={"errors.py": "class Broken(KeyError):\n    pass\n"},
    ),
    Scenario(
        "dependencys_patch_version",
        head="import ladder_dependency_a",
        body="result = ladder_dependency_a.x",
        files={
            "site-packages/ladder_dependency_a.py": "x = 1\n",
            **_metadata("ladder_dependency_a", "1.0.0"),
        },
        change={
            "site-packages/ladder_dependency_a-1.0.0.dist-info": lambda path: shutil.rmtree(path),
            **_metadata("ladder_dependency_a", "1.0.1"),
        },
        named=["distribution changed: ladder-dependency-a"],
        forms=EVERY,
    ),
    Scenario(
        "dependency_edited_in_place",
        head="import ladder_dependency_b",
        body="result = ladder_dependency_b.x",
        files={
            "site-packages/ladder_dependency_b.py": "x = 1\n",
            **_metadata("ladder_dependency_b", "1.0.0"),
        },
        change={"site-packages/ladder_dependency_b.py": "x = 2\n"},
        named=["distribution changed: ladder-dependency-b"],
        forms=EVERY,
    ),
    Scenario(
        "dependency_that_a_function_imports",
        body="""
        import ladder_dependency_g
        result = ladder_dependency_g.x
        """,
        files={
            "site-packages/ladder_dependency_g.py": "x = 1\n",
            **_metadata("ladder_dependency_g", "1.0.0"),
        },
        change={"site-packages/ladder_dependency_g.py": "x = 2\n"},
        named=["distribution changed: ladder-dependency-g"],
        forms=EVERY,
    ),
    Scenario(
        "dependency_that_is_asked_for_by_name",
        head="ladder_dependency_h = pytest.importorskip('ladder_dependency_h')",
        body="result = ladder_dependency_h.x",
        files={
            "site-packages/ladder_dependency_h.py": "x = 1\n",
            **_metadata("ladder_dependency_h", "1.0.0"),
        },
        change={"site-packages/ladder_dependency_h.py": "x = 2\n"},
        forms=EVERY,
    ),
    *(
        Scenario(
            f"{what}_at_import_of_a_dependency",
            files={
                f"site-packages/ladder_dependency_{what}.py": body,
                f"site-packages/ladder_requiring_{what}.py": f"""
                    from ladder_dependency_{what} import x
                """,
                **_metadata(f"ladder_asked_{what}", "1.0.0"),
                **_metadata(f"ladder_dependency_{what}", "1.0.0"),
                **_metadata(f"ladder_requiring_{what}", "1.0.0", f"ladder_dependency_{what}"),
                **{
                    f"test_{name}.py": f"""
                    from counter import count
                    from ladder_{module}_{what} import x

                    def test_it():
                        count("SELF.{name}")
                        assert x
                    """
                    for name, module in (
                        ("a", "dependency"),
                        ("b", "dependency"),
                        ("c", "requiring"),
                    )
                },
            },
            change=change,
            environ=environ,
        )
        for what, body, change, environ in (
            (
                "variable",
                "import os\nx = [os.environ.get('LADDER_OF_A_DEPENDENCY')]\n",
                {},
                {"LADDER_OF_A_DEPENDENCY": (None, "1")},
            ),
            (
                "file",
                "import os\nx = [os.path.exists('SELF/ladder.cfg')]\n",
                {"ladder.cfg": ""},
                {},
            ),
            (
                "module",
                "try:\n    import ladder_of_a_dependency as x\nexcept ImportError:\n    x = [1]\n",
                {"site-packages/ladder_of_a_dependency.py": ""},
                {},
            ),
            (
                "version",
                "import importlib.metadata\n"
                "x = importlib.metadata.version('ladder_asked_version')\n",
                {
                    "site-packages/ladder_asked_version-1.0.0.dist-info": shutil.rmtree,
                    **_metadata("ladder_asked_version", "1.0.1"),
                },
                {},
            ),
        )
    ),
    Scenario(
        "dependency_appears",
        head="""
        try:
            import ladder_dependency_c
        except ImportError:
            ladder_dependency_c = None
        """,
        body="result = ladder_dependency_c is None",
        files={"site-packages/readme.txt": ""},
        change={
            "site-packages/ladder_dependency_c.py": "x = 1\n",
            **_metadata("ladder_dependency_c", "1.0.0"),
        },
        forms=EVERY,
    ),
    Scenario(
        "version_of_what_a_dependency_requires",
        head="import ladder_dependency_e",
        body="result = ladder_dependency_e.x",
        files={
            "site-packages/ladder_dependency_e.py": "from ladder_dependency_f import x\n",
            "site-packages/ladder_dependency_f.py": "x = 1\n",
            **_metadata("ladder_dependency_e", "1.0.0", "ladder_dependency_f"),
            **_metadata("ladder_dependency_f", "1.0.0"),
        },
        change={
            "site-packages/ladder_dependency_f-1.0.0.dist-info": lambda path: shutil.rmtree(path),
            **_metadata("ladder_dependency_f", "1.0.1"),
        },
    ),
    Scenario(
        "version_of_a_dependency_asked_for_at_import",
        files={
            "lib.py": """
                import importlib.metadata
                VERSION = importlib.metadata.version('ladder_dependency_i')
            """,
            "test_it.py": """
                from counter import count
                from SELF import lib

                def test_it():
                    count("SELF.it")
                    assert lib.VERSION
            """,
            **_metadata("ladder_dependency_i", "1.0.0"),
        },
        change={
            "site-packages/ladder_dependency_i-1.0.0.dist-info": lambda path: shutil.rmtree(path),
            **_metadata("ladder_dependency_i", "1.0.1"),
        },
    ),
    Scenario(
        "version_of_a_dependency_asked_for",
        head="import importlib.metadata",
        body="result = importlib.metadata.version('ladder_dependency_d')",
        files={
            "site-packages/ladder_dependency_d.py": "x = 1\n",
            **_metadata("ladder_dependency_d", "1.0.0"),
        },
        change={
            "site-packages/ladder_dependency_d-1.0.0.dist-info": lambda path: shutil.rmtree(path),
            **_metadata("ladder_dependency_d", "1.0.1"),
        },
    ),
    *(
        Scenario(
            f"module_imported_by_generated_code_{name}",
            files={
                "helper.py": "LIMIT = 1\n",
                "test_a.py": """
                from . import helper

                def test_a():
                    pass
                """,
                "test_b.py": f"""
                import importlib, runpy, sys, types
                from counter import count

                TEXT = "from SELF.helper import LIMIT"

                def test_b(tmp_path, monkeypatch):
                    count("SELF.b")
                    monkeypatch.syspath_prepend(tmp_path)
                    (tmp_path / "SELF_made.py").write_text(TEXT)
                    {line}
                """,
            },
            change={"helper.py": "LIMIT = 2\n"},
            stale=["b"],
        )
        for name, line in (
            ("by_exec", "exec(TEXT, {})"),
            ("in_a_function", "exec('def f():\\n    ' + TEXT, scope := {}); scope['f']()"),
            ("by_runpy", "runpy.run_path(str(tmp_path / 'SELF_made.py'))"),
            ("by_import_module", "importlib.import_module('SELF_made')"),
            ("by_a_function_type", "types.FunctionType(compile(TEXT, '<x>', 'exec'), {})()"),
        )
    ),
    *(
        Scenario(
            f"what_another_module_calls_of_{name}",
            head="from . import lib",
            body="result = lib.KEPT",
            files={"tools.py": _KEEPING, "plug.py": plug, "lib.py": f"from .tools import *\n{lib}"},
            change={"plug.py": plug.replace("return 1", "return 2")},
        )
        for name, plug, lib in (
            ("an_object", _MAKING, "from .plug import P\nkeep(P())"),
            ("a_class", _MAKING, "from .plug import P\nkeep(P)"),
            ("a_decorated_class", f"from .tools import *\n@keep\n{_MAKING}", "from . import plug"),
            ("a_listed_class", f"from .tools import *\n@keep_all\n{_MAKING}", "from . import plug"),
            (
                "a_listed_module",
                "def make():\n    return 1\n",
                "from . import plug\nkeep_all(plug)",
            ),
            (
                "a_namespace",
                "def make():\n    return 1\n",
                "import SELF.plug\nall = [*SELF.plug.__dict__.values()]\n"
                "KEPT = [f() for f in all if is_make(f)]",
            ),
            (
                "a_class_that_it_makes",
                f"from .tools import *\n{_MAKING.replace('P', 'P(metaclass=Making)')}",
                "from . import plug",
            ),
            (
                "a_class_with_a_base_that_is_imported_with_all",
                f"from .tools import *\n{_MAKING.replace('P', 'P(Made)')}",
                "from . import plug",
            ),
        )
    ),
    Scenario(
        "what_another_module_called_for_an_earlier_test",
        files={
            "tools.py": "def made(p):\n    return p.make()\n",
            "lib.py": f"""
            from .tools import made
            {_MAKING.replace(chr(10), chr(10) + " " * 12)}
            KEPT = []

            def kept():
                KEPT[:] = KEPT or [made(P())]
                return KEPT
            """,
            "test_it.py": """
            from counter import count
            from . import lib

            def test_a():
                count("SELF.a")
                assert lib.kept()

            def test_b():
                count("SELF.b")
                assert lib.kept()
            """,
        },
        change={"lib.py": lambda path: _replace(path, "return 1", "return 2")},
    ),
    Scenario(
        "syntax_error_mended",
        body="""
        try:
            from . import broken
            result = broken.x
        except SyntaxError:
            result = 0
        """,
        files={"broken.py": "x = = 1\n"},
        change={"broken.py": "x = 1\n"},
    ),
]
