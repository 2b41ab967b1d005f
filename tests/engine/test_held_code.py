"""A value rests on the code that it holds, and on paths that will be there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bodies import times

from pytest_taskcache import cached
from pytest_taskcache.model.event import Computed

MAKER = """
    def adder(n):
        def add(x):
            return x + n
        return add

    def beside():
        return 1
"""

MAIN = """
    from bodies import ran
    from pytest_taskcache import *
    import maker

    @cached(policy=INPUTS + OBSERVED)
    def made():
        ran("made")
        return maker.adder(1)

    @cached(policy=INPUTS + OBSERVED)
    def user():
        ran("user")
        return made()(1)
"""


def test_a_closure_rests_on_its_source_though_it_never_ran(closed, load):
    """Edited, it is made anew; whoever used the value is computed again, too."""
    load("maker", MAKER)
    module = load("main", MAIN)
    with closed:
        assert module.made()(1) == 2
        assert module.made()(1) == 2
    assert times("made") == 1
    load("maker", MAKER.replace("return x + n", "return x + n + 10"))
    module = load("main", MAIN)
    with closed:
        assert module.made()(1) == 12
        assert module.user() == 12
    assert times("made") == 2
    load("maker", MAKER.replace("return x + n", "return x + n + 20"))
    module = load("main", MAIN)
    with closed:
        assert module.user() == 22
    assert times("user") == 2


def test_a_comment_beside_held_code_changes_nothing(closed, load):
    """Source counts as it means, not as it is written."""
    load("maker", MAKER)
    module = load("main", MAIN)
    with closed:
        module.made()
    load("maker", MAKER.replace("return x + n", "return x + n  # exact"))
    module = load("main", MAIN)
    with closed:
        assert module.made()(1) == 2
    assert times("made") == 1


def test_a_path_in_the_systems_temporary_directory_is_refused(cache, events):
    """The next run does not have it; the reason names the directory and the remedy."""

    @cached
    def listed():
        return [str(Path(tempfile.mkdtemp(prefix="held-")))]

    listed()
    (event,) = events.of(Computed)
    assert not event.staged
    assert event.reason == "value cannot be serialized"
    assert f"it names a path in {tempfile.gettempdir()}" in event.detail
    assert "serializer='tree'" in event.detail


def test_a_path_of_the_project_is_kept(cache, root):
    """Also where the project itself lies in a temporary directory."""

    @cached
    def here():
        return [str(root / "data.txt")]

    (root / "data.txt").write_text("1")
    assert (here(), here()) == ([str(root / "data.txt")],) * 2
    assert here.call().name == "Cached"
