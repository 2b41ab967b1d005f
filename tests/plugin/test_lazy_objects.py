"""Lazy modules and objects of a project are left asleep, whatever of the cache looks at them."""

from __future__ import annotations

from projects import Project


def test_nothing_is_woken(project: Project) -> None:
    """Neither what a module holds nor what stands in ``sys.modules``, by outcomes, fixtures,
    functions, patches, sentinels, collection or the page of reports: those here raise when they are
    asked for anything."""
    project.write(
        "lazies.py",
        """
        import sys, types

        class Lazy:
            def __getattribute__(self, name):
                raise RuntimeError(f"woken: {name}")

        class LazyModule(types.ModuleType):
            def __getattribute__(self, name):
                if name == "__spec__":  # unittest.mock and importlib ask for it
                    raise AttributeError(name)
                raise RuntimeError(f"woken: {name}")

        LAZY = Lazy()
        sys.modules["lazy_module"] = LazyModule("lazy_module")
        sys.modules["lazy_object"] = Lazy()
        """,
    )
    project.write(
        "conftest.py",
        """
        from lazies import LAZY
        from pytest_taskcache import cached_fixture

        @cached_fixture
        def narrow():
            return [1]

        @cached_fixture(scope="session")
        def wide():
            return [1]
        """,
    )
    project.write(
        "test_suite.py",
        """
        from counter import count
        from lazies import LAZY
        from pytest_taskcache import cached

        SENTINEL = object()
        RATE = 3

        def helper():
            return LAZY is None

        @cached
        def plain(n, default=SENTINEL):
            return n

        @cached
        def product(n):
            helper()
            return n * RATE

        def test_values(narrow, wide):
            count("values")
            assert plain(1) == 1 and product(1) == 3

        def test_patched(monkeypatch):
            count("patched")
            monkeypatch.setattr("test_suite.RATE", 4)
            assert product(1) == 4
        """,
    )
    options = ("--cache-tests=all", "--cache-report=page.html")
    project.run(*options).assert_outcomes(passed=2)
    assert project.counted() == 2
    second = project.run(*options)
    second.assert_outcomes(passed=2)
    assert project.counted() == 2, str(second.stdout)


def test_a_module_is_looked_at_once_all_of_it_is_there(project: Project) -> None:
    """One that is imported by a test, and calls a cached function on the way: what it defines
    below that call has not been changed by hand."""
    project.write(
        "calls.py",
        """
        from pytest_taskcache import cached

        @cached
        def first():
            return 1
        """,
    )
    project.write(
        "late.py",
        """
        import calls, threading

        FIRST = calls.first()
        LOCK = threading.Lock()

        def value():
            with LOCK:
                return FIRST
        """,
    )
    project.write(
        "test_late.py",
        """
        from counter import count
        from pytest_taskcache import cached

        @cached
        def function():
            count("function")
            import late
            return late.value()

        def test_it():
            import late
            assert function() == function() == 1
        """,
    )
    for _ in range(2):
        project.run().assert_outcomes(passed=1)
    assert project.counted("function") == 1
