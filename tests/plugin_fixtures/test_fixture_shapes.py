"""Every shape a fixture can have: cached once, and then neither set up nor torn down."""

from __future__ import annotations

import pytest
from nested_runs import cold_then_warm, run
from projects import Project


@pytest.mark.parametrize("scope", ["function", "class", "module", "package", "session"])
def test_every_scope_is_cached(project: Project, scope: str) -> None:
    """A fixture of any scope is computed in the first run only, once."""
    project.write(
        "test_suite.py",
        f"""
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope={scope!r})
        def data():
            count("body")
            return [1, 2]

        class TestOne:
            def test_a(self, data):
                assert data == [1, 2]

            def test_b(self, data):
                assert data == [1, 2]
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


def test_a_dynamic_scope_is_cached(project: Project) -> None:
    """The scope may be a callable, as pytest allows."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        def scope(fixture_name, config):
            assert fixture_name == "data"
            return "module"

        @cached_fixture(scope=scope)
        def data(request):
            count("body")
            return request.scope

        def test_a(data):
            assert data == "module"

        def test_b(data):
            assert data == "module"
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


def test_each_function_scoped_consumer_gets_its_own_value(project: Project) -> None:
    """A test that changes its value spoils neither the next test's nor the stored one."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            return [1, 2]

        def test_a(data):
            assert data == [1, 2]
            data.append(3)

        def test_b(data):
            assert data == [1, 2]
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


ORDERS = {
    "cached_above": "@cached\n@pytest.fixture(scope='module')",
    "cached_below": "@pytest.fixture(scope='module')\n@cached",
    "cached_with_options_above": "@cached(key='k')\n@pytest.fixture(scope='module')",
    "cached_with_options_below": "@pytest.fixture(scope='module')\n@cached(key='k')",
    "cached_fixture": "@cached_fixture(scope='module', key='k')",
    "both_sides": "@cached\n@pytest.fixture(scope='module')\n@cached",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["return", "yield"])
def test_both_decorator_orders_are_cached(project: Project, order: str, kind: str) -> None:
    """`cached` above or below `pytest.fixture`, returning or yielding: one computation."""
    project.write(
        "test_suite.py",
        f"""
import pytest
from counter import count
from pytest_taskcache import cached, cached_fixture

{ORDERS[order]}
def data():
    count("body")
    {kind} {{"a": (1, 2)}}

def test_a(data):
    assert data == {{"a": (1, 2)}}

def test_b(data):
    assert data == {{"a": (1, 2)}}
""",
    )
    cold_then_warm(project, computed=1, passed=2)


@pytest.mark.parametrize(
    "order",
    ["@cached\n@pytest.fixture\n@twice", "@pytest.fixture\n@cached\n@twice"],
    ids=["above_the_fixture", "below_the_fixture"],
)
def test_decorators_below_cached_belong_to_the_computation(project: Project, order: str) -> None:
    """What a decorator between `cached` and the function does is part of the value, on a miss
    as on a hit."""
    project.write(
        "test_suite.py",
        f"""
import functools
import pytest
from counter import count
from pytest_taskcache import cached

def twice(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)
    return wrapper

@pytest.fixture
def base():
    return 2

{order}
def data(base):
    count("body")
    return base

def test_it(data):
    assert data == 4
""",
    )
    cold_then_warm(project, computed=1, passed=1)


def test_a_decorator_above_cached_still_runs(project: Project) -> None:
    """A decorator around a cached function applies on hits too: only what is below `cached` is
    cached."""
    project.write(
        "test_suite.py",
        """
        import functools
        import pytest
        from counter import count
        from pytest_taskcache import cached

        def opened(function):
            @functools.wraps(function)
            def wrapper():
                return ["opened", function()]
            return wrapper

        @pytest.fixture
        @opened
        @cached
        def data():
            count("body")
            return 1

        def test_it(data):
            assert data == ["opened", 1]
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


def test_cached_below_the_fixture_with_another_upstream(project: Project) -> None:
    """Each of several tests gets its values; another run finds what the first one kept."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @pytest.fixture
        @cached
        def rows():
            count("rows")
            return [1]

        @pytest.fixture
        @cached
        def data(rows):
            count("data")
            return [*rows]

        def test_a(data):
            assert data == [1]

        def test_b(data, rows):
            assert data == rows == [1]
        """,
    )
    for _ in range(2):
        run(project).assert_outcomes(passed=2)
    assert project.counted("rows") == project.counted("data") == 1


def test_params_are_cached_apart(project: Project) -> None:
    """Each parameter has a value of its own; a new one is the only one computed; ids do not
    matter."""
    suite = """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="module", params=PARAMS, ids=IDS)
        def data(request):
            count(f"body {request.param}")
            return request.param * 10

        def test_it(data):
            assert data in (10, 20, 30)

        def test_again(data):
            assert data in (10, 20, 30)
    """
    project.write("test_suite.py", suite.replace("PARAMS", "[1, 2]").replace("IDS", "['a', 'b']"))
    cold_then_warm(project, computed=2, passed=4)


def test_a_new_parameter_is_the_only_one_computed(project: Project) -> None:
    """Parameters that come from elsewhere may grow without recomputing the old ones."""
    project.write("given.py", "PARAMS = [1, 2]\n")
    project.write(
        "conftest.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture, TASK_SOURCE, INPUTS

        @cached_fixture(scope="module", policy=TASK_SOURCE + INPUTS)
        def data(request):
            count(f"body {request.param}")
            return request.param * 10
        """,
    )
    project.write(
        "test_suite.py",
        """
        import pytest
        from given import PARAMS

        @pytest.mark.parametrize("data", PARAMS, indirect=True)
        def test_it(data):
            assert data in (10, 20, 30)
        """,
    )
    cold_then_warm(project, computed=2, passed=2)
    project.write("given.py", "PARAMS = [1, 2, 3]\n")
    run(project).assert_outcomes(passed=3)
    assert (project.counted(), project.counted("body 3")) == (3, 1)


@pytest.mark.parametrize("scope", ["", ", scope='module'"], ids=["own_scope", "widened"])
def test_indirect_parameters_are_inputs(project: Project, scope: str) -> None:
    """`parametrize(..., indirect=True)` gives the fixture its parameter: an input like others."""
    project.write(
        "test_suite.py",
        f"""
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data(request):
            count("body")
            return request.param + 1

        @pytest.mark.parametrize("data", [1, 2, 1.0], indirect=True{scope})
        def test_it(data):
            assert data in (2, 3)
        """,
    )
    cold_then_warm(project, computed=3, passed=3)


def test_types_of_parameters_are_kept_apart(project: Project) -> None:
    """1, True and "1" are three parameters with three values."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(params=[1, True, "1"], ids=["int", "bool", "str"])
        def data(request):
            count("body")
            return type(request.param).__name__

        def test_it(data, request):
            assert request.node.name == f"test_it[{data}]"
        """,
    )
    cold_then_warm(project, computed=3, passed=3)


def test_autouse_fixtures_are_cached(project: Project) -> None:
    """A fixture that nobody names is cached like any other."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(autouse=True, scope="module")
        def data():
            count("body")
            return 3

        def test_a():
            pass

        def test_b(data):
            assert data == 3
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


CHAIN = {
    "conftest.py": """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="session")
        def data():
            count("conftest")
            return ["conftest"]
    """,
    "test_suite.py": """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="module")
        def data(data):
            count("module")
            return [*data, "module"]

        def test_of_module(data):
            assert data == ["conftest", "module"]

        class TestClass:
            @cached_fixture
            def data(self, data):
                count("class")
                return [*data, "class"]

            def test_of_class(self, data):
                assert data == ["conftest", "module", "class"]
    """,
}


def test_an_override_chain_is_cached_link_by_link(project: Project) -> None:
    """`data(data)` in conftest, module and class: three values that do not mix; an edit of the
    deepest reaches all three."""
    for name, text in CHAIN.items():
        project.write(name, text)
    cold_then_warm(project, computed=3, passed=2)
    project.write("conftest.py", CHAIN["conftest.py"].replace('["conftest"]', '["conftest", ][:]'))
    run(project).assert_outcomes(passed=2)
    # The same value again: the links above it go by what it is, not by when it was made.
    assert project.counted("conftest") == 2
    changed = CHAIN["conftest.py"].replace('["conftest"]', '["CONFTEST"]')
    project.write("conftest.py", changed)
    project.write("test_suite.py", CHAIN["test_suite.py"].replace('["conftest"', '["CONFTEST"'))
    run(project).assert_outcomes(passed=2)
    assert project.counted("conftest") == 3
    assert project.counted("class") >= 2


def test_inherited_methods_do_not_share_between_classes(project: Project) -> None:
    """A fixture of a base class sees its class: each subclass has its own value."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        class Base:
            size = 0

            @cached_fixture
            def data(self):
                count(type(self).__name__)
                return [0] * self.size

            @cached_fixture(scope="class")
            @classmethod
            def name(cls):
                count("name")
                return cls.__name__

            def test_size(self, data, name):
                assert len(data) == self.size
                assert name == type(self).__name__

        class TestTwo(Base):
            size = 2

        class TestThree(Base):
            size = 3
        """,
    )
    cold_then_warm(project, computed=4, passed=2)


def test_attributes_of_the_instance_are_inputs(project: Project) -> None:
    """What another fixture put on ``self`` before is an input: when it changes, a miss."""
    suite = """
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        class TestIt:
            @pytest.fixture(autouse=True)
            def prepare(self):
                from given import SIZE
                self.size = SIZE

            @cached_fixture
            def data(self):
                count("body")
                return [0] * self.size

            def test_size(self, data):
                assert len(data) == self.size
    """
    project.write("given.py", "SIZE = 2\n")
    project.write("test_suite.py", suite)
    cold_then_warm(project, computed=1, passed=1)
    project.write("given.py", "SIZE = 3\n")
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 2


def test_attributes_of_the_class_set_at_run_time_are_inputs(project: Project) -> None:
    """``setup_class`` that loads something: a method fixture that reads it notices a change."""
    suite = """
        from counter import count
        from given import size
        from pytest_taskcache import cached_fixture

        class TestIt:
            @classmethod
            def setup_class(cls):
                cls.size = size()

            @cached_fixture
            def data(self):
                count("body")
                return self.made()

            def made(self):
                return [0] * self.size

            def test_size(self, data):
                assert len(data) == self.size
    """
    project.write("given.py", "def size():\n    return 2\n")
    project.write("test_suite.py", suite)
    cold_then_warm(project, computed=1, passed=1)
    project.write("given.py", "def size():\n    return 3\n")
    run(project).assert_outcomes(passed=1)
    assert project.counted() == 2


def test_undigestable_state_that_is_not_read_does_not_matter(project: Project) -> None:
    """An instance may hold a lock or a connection: it counts only if the fixture reads it."""
    project.write(
        "test_suite.py",
        """
        import sqlite3
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        class TestIt:
            @pytest.fixture(autouse=True)
            def prepare(self):
                self.connection = sqlite3.connect(":memory:")
                yield
                self.connection.close()

            @cached_fixture
            def data(self):
                count("body")
                return 1

            def test_it(self, data):
                assert data == 1
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


def test_fixtures_of_a_plugin_object_do_not_depend_on_the_test_class(project: Project) -> None:
    """A method of a plugin, not of the test's class: all classes share its value."""
    project.write(
        "conftest.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        class Plugin:
            @cached_fixture
            def data(self):
                count("body")
                return type(self).__name__

        def pytest_configure(config):
            config.pluginmanager.register(Plugin(), "the-plugin")
        """,
    )
    project.write(
        "test_suite.py",
        """
        class TestA:
            def test_it(self, data):
                assert data == "Plugin"

        class TestB:
            def test_it(self, data):
                assert data == "Plugin"
        """,
    )
    cold_then_warm(project, computed=1, passed=2)


def test_yield_fixtures_run_neither_set_up_nor_teardown_on_a_hit(project: Project) -> None:
    """The run that computes also tears down; a run that reuses does neither."""
    project.write(
        "test_suite.py",
        """
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="module")
        def data(request):
            count("up")
            request.addfinalizer(lambda: count("finalizer"))
            yield 5
            count("down")

        def test_it(data):
            assert data == 5
        """,
    )
    cold_then_warm(project, computed=3, passed=1)


@pytest.mark.parametrize("value", ["None", "False", "0", "()"])
def test_empty_values_are_values(project: Project, value: str) -> None:
    """None and its like are stored and served as any other value."""
    project.write(
        "test_suite.py",
        f"""
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def data():
            count("body")
            return {value}

        def test_it(data):
            assert data == {value} and type(data) is type({value})
        """,
    )
    cold_then_warm(project, computed=1, passed=1)


def test_unittest_classes_are_served(project: Project) -> None:
    """Fixtures that a ``unittest.TestCase`` uses, of its own and of the module, are cached; what
    ``setUpClass`` made and they read is an input."""
    suite = """
        import unittest
        import pytest
        from counter import count
        from given import size
        from pytest_taskcache import cached_fixture

        @cached_fixture(scope="class")
        def numbers(request):
            count("numbers")
            return [1, 2]

        class TestIt(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.size = size()

            @cached_fixture(autouse=True)
            def mine(self, numbers):
                count("mine")
                return [*numbers, self.size]

            @pytest.fixture(autouse=True)
            def keep(self, mine):
                self.kept = mine

            def test_a(self):
                self.assertEqual(self.kept, [1, 2, self.size])

            def test_b(self):
                self.assertEqual(self.kept, [1, 2, self.size])
    """
    project.write("given.py", "def size():\n    return 3\n")
    project.write("test_suite.py", suite)
    cold_then_warm(project, computed=2, passed=2)
    project.write("given.py", "def size():\n    return 4\n")
    run(project).assert_outcomes(passed=2)
    assert project.counted("mine") == 2


ASYNC = """
    import pytest
    import pytest_asyncio
    from counter import count
    from pytest_taskcache import cached, cached_fixture
"""

ASYNCIO_ORDERS = {
    "above": "@cached\n@pytest_asyncio.fixture{arguments}",
    "below": "@pytest_asyncio.fixture{arguments}\n@cached",
}


@pytest.mark.parametrize("order", ASYNCIO_ORDERS)
@pytest.mark.parametrize("scope", ["function", "module"])
@pytest.mark.parametrize("kind", ["return", "yield"])
def test_fixtures_of_pytest_asyncio_are_cached(
    project: Project, order: str, scope: str, kind: str
) -> None:
    """Async fixtures, coroutines and generators, in strict mode, decorated in either order."""
    arguments = f"(scope={scope!r}, loop_scope={scope!r})"
    project.write(
        "test_suite.py",
        f"""
import asyncio
import pytest
import pytest_asyncio
from counter import count
from pytest_taskcache import cached

{ASYNCIO_ORDERS[order].format(arguments=arguments)}
async def data():
    count("body")
    await asyncio.sleep(0)
    {kind} [1, 2]

@pytest.mark.asyncio(loop_scope={scope!r})
async def test_it(data):
    await asyncio.sleep(0)
    assert data == [1, 2]
""",
    )
    cold_then_warm(project, computed=1, passed=1)


@pytest.mark.parametrize("kind", ["return", "yield"])
def test_async_fixtures_in_auto_mode_are_cached(project: Project, kind: str) -> None:
    """`cached_fixture` on an async function, where pytest-asyncio takes all of them."""
    project.write(
        "test_suite.py",
        f"""
        import asyncio
        from counter import count
        from pytest_taskcache import cached_fixture

        @cached_fixture
        async def base():
            count("base")
            await asyncio.sleep(0)
            return 1

        @cached_fixture
        async def data(base):
            count("body")
            await asyncio.sleep(0)
            {kind} [base, 2]

        async def test_it(data):
            assert data == [1, 2]

        def test_sync(data):
            assert data == [1, 2]
        """,
    )
    cold_then_warm(
        project, "-o", "asyncio_mode=auto", "-W", "ignore::DeprecationWarning", computed=2, passed=2
    )


@pytest.mark.parametrize("kind", ["return", "yield"])
@pytest.mark.parametrize("scope", ["function", "module"])
def test_fixtures_of_anyio_are_cached(project: Project, kind: str, scope: str) -> None:
    """Async fixtures under anyio; the backend is an input, named or not (where the fixture
    outlives a test, anyio itself needs it named)."""
    names = "" if scope == "function" else "anyio_backend"
    project.write(
        "test_suite.py",
        f"""
        import anyio
        import pytest
        from counter import count
        from pytest_taskcache import cached_fixture

        pytestmark = pytest.mark.anyio

        @pytest.fixture(
            scope="module",
            params=[("asyncio", {{"debug": False}}), ("asyncio", {{"debug": True}})],
            ids=["plain", "debug"],
        )
        def anyio_backend(request):
            return request.param

        @cached_fixture(scope={scope!r})
        async def data({names}):
            import asyncio
            count("body")
            await anyio.sleep(0)
            {kind} asyncio.get_running_loop().get_debug()

        async def test_it(data, request):
            assert data is ("debug" in request.node.name)
        """,
    )
    cold_then_warm(project, computed=2, passed=2)
