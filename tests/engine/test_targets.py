"""Targets: a file whose existence means a hit."""

from __future__ import annotations

import json
import os
import pickle
import re

import pytest
from bodies import ran, times

from pytest_taskcache import (
    Cache,
    CachePolicy,
    ConfigurationError,
    UnknownInputError,
    cached,
    transaction,
)
from pytest_taskcache.engine.computation import Place
from pytest_taskcache.model.decision import Origin
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.storage.records import decode_variant
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.storage.remote.pruning import Retention, prune


@pytest.fixture
def targets(tmp_path):
    return tmp_path / "cache" / "targets"


def answer(**options):
    options = {"target": "answer.json", "serializer": "json"} | options

    @cached(**options)
    def f(x=1):
        ran("f")
        return [times("f")]

    return f


def forget_records(cache):
    local = cache.engine.parts.local
    local.remove_records([record.id for record in local.scan()])


def test_the_file_is_written_and_used(closed, targets):
    """In this run and the next."""
    f = answer()
    for _ in range(2):
        with closed:
            assert f() == [1]
            assert f() == [1]
    assert os.listdir(targets) == ["answer.json"]
    assert times("f") == 1


def test_it_is_exported_only_on_commit(cache, targets):
    """A transaction that fails leaves no file; inside, its value is seen all the same."""
    f = answer()
    with pytest.raises(OSError, match="later"), transaction():  # noqa: PT012 # its body fails
        f(), f()
        raise OSError("later")
    assert not targets.exists()
    with transaction():
        assert f() == [2]
        assert not targets.exists()
    assert (targets / "answer.json").is_file()
    assert times("f") == 2


def test_it_is_not_exported_where_nothing_commits(cache, targets):
    """``commit="OFF"``, alone and in a transaction."""
    f = answer(commit="OFF")
    f()
    with transaction():
        f()
    with transaction("OFF"):
        answer()()
    assert not targets.exists()


def test_a_deleted_file_is_computed_again(cache, targets):
    """As with Make: no target, no hit."""
    f = answer()
    f()
    (targets / "answer.json").unlink()
    assert f() == [2]
    assert (targets / "answer.json").exists()
    f()
    assert times("f") == 2


def test_an_edited_file_is_the_value(cache, targets):
    """Whoever owns the directory may put a value there by hand."""
    f = answer()
    f()
    file = targets / "answer.json"
    file.write_text(file.read_text().replace("[1]", "[41]"))
    assert f() == [41]
    assert f.call().decision.origin is Origin.TARGET
    assert times("f") == 1


def test_a_file_without_a_record_is_the_value(cache, targets):
    """Made by another function, or by nobody known."""
    answer()()
    forget_records(cache)
    assert answer()() == [1]
    assert times("f") == 1


def test_a_file_that_cannot_be_read_back_is_computed_again(cache, targets):
    """And overwritten."""
    f = answer()
    f()
    (targets / "answer.json").write_bytes(b"\x00nonsense")
    assert f() == [2]
    assert f() == [2]
    assert times("f") == 2


class Boom:
    def __reduce__(self):
        return (ran, ("executed",))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_file_of_someone_else_is_not_executed(cache, targets):
    """A target without a record hits only if nobody else can have written it."""
    f = answer(target="a.pkl", serializer="pickle")
    f()
    (targets / "a.pkl").write_bytes(pickle.dumps(Boom()))
    os.chown(targets / "a.pkl", 12345, 12345)
    assert f() == [2]
    assert not times("executed")


@pytest.mark.parametrize("who", ["file", "directory"])
def test_a_file_that_others_can_write_is_not_executed(cache, targets, who):
    """Nor one in a directory that they can write to."""
    f = answer(target="deep/a.pkl", serializer="pickle")
    f()
    file = targets / "deep" / "a.pkl"
    file.write_bytes(pickle.dumps(Boom()))
    os.chmod(file if who == "file" else file.parent, 0o777)
    assert f() == [2]
    assert not times("executed")


@pytest.mark.parametrize("what", ["file", "directory"])
def test_links_are_not_followed_out_of_the_directory(cache, targets, tmp_path, what, events):
    """Neither for reading without a record nor for writing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.pkl").write_bytes(pickle.dumps(Boom()))
    targets.mkdir(mode=0o700)
    if what == "directory":
        (targets / "deep").symlink_to(outside)
        f = answer(target="deep/a.pkl", serializer="pickle")
    else:
        (targets / "a.pkl").symlink_to(outside / "a.pkl")
        f = answer(target="a.pkl", serializer="pickle")
    assert f() == [1]
    assert not times("executed")
    assert (outside / "a.pkl").read_bytes() == pickle.dumps(Boom())
    if what == "directory":
        assert [event.reason for event in events.of(Faulted)] == ["target not exported"]


def test_a_directory_in_the_place_of_a_target(cache, targets, events):
    """Costs the entry, not the call."""
    f = answer()
    (targets / "answer.json").mkdir(parents=True)
    assert f() == [1]
    assert "target not exported" in {event.reason for event in events.of(Faulted)}


def test_a_refreshing_run_ignores_files(tmp_path, root):
    """It computes once and overwrites."""
    f = answer()
    place = tmp_path / "cache"
    with Cache(place, root=root) as cache:
        f()
        forget_records(cache)
    with Cache(place, root=root, refresh=True):
        assert f() == [2]
        assert f() == [2]
    with Cache(place, root=root):
        assert f() == [2]
    assert times("f") == 2


def test_templates(cache, targets):
    """Date, task, test, its parameters and the inputs."""
    cache.engine.place = Place("t::x[1]", "suite.module", "test_x[1]", {"n": 7})
    cache.engine.clock = lambda: 1_700_000_000.0

    @cached(
        target="{test_module}/{date:%Y-%m}/{today}/{task_name}-{test_name}-{parameters[n]}-{x:03d}.pkl"
    )
    def f(x):
        ran("f")

    f(5), f(5)
    (written,) = [path for path in targets.rglob("*") if path.is_file()]
    name = str(written.relative_to(targets))
    assert re.fullmatch(
        r"suite.module/2023-11/2023-11-1\d/test_templates.<locals>.f-test_x\[1\]-7-005.pkl", name
    )
    assert times("f") == 1
    f(6)
    assert times("f") == 2


def test_braces_are_doubled_as_in_any_format(cache, targets):
    """``{{x}}`` is text."""
    cached(target="{{literal}}.pkl")(lambda: 1)()
    assert os.listdir(targets) == ["{literal}.pkl"]


@pytest.mark.parametrize("target", ["{nothing}.pkl", "{0}.pkl", "{}.pkl", "{nothing.x}"])
def test_unknown_variables_stop_the_decorator(target):
    """With those there are."""
    with pytest.raises(UnknownInputError, match="its inputs are: date, today"):
        cached(target=target)(lambda x: x)


@pytest.mark.parametrize("target", ["/etc/passwd", "../up.pkl", "a/../../b", ".", "{x", "x}"])
def test_targets_that_leave_their_directory_stop_the_decorator(target):
    """Or that are no templates."""
    with pytest.raises(ConfigurationError, match="target"):
        cached(target=target)(lambda x: x)


def test_inputs_cannot_lead_a_target_astray(cache):
    """The call is refused before anything runs."""
    f = cached(target="{x}.pkl")(lambda x: ran("f"))
    with pytest.raises(ConfigurationError, match="inside the target directory"):
        f("../../escaped")
    assert not times("f")


def test_a_consumer_rests_on_the_file(cache, targets):
    """Who used a target's value is computed again when the file is edited."""
    f = answer()

    @cached
    def consumer():
        ran("consumer")
        return [*f(), "consumer"]

    consumer(), consumer()
    assert times("consumer") == 1
    file = targets / "answer.json"
    file.write_text(file.read_text().replace("[1]", "[5]"))
    assert consumer() == [5, "consumer"]
    assert consumer() == [5, "consumer"]
    assert times("consumer") == 2


def test_yesterday_and_tomorrow(cache, targets):
    """As text, beside today."""
    cache.engine.clock = lambda: 1_700_000_000.0

    @cached(target="{yesterday}_{today}_{tomorrow}.pkl")
    def f():
        ran("f")

    f(), f()
    (written,) = targets.rglob("*.pkl")
    days = [int(day[-2:]) for day in written.stem.split("_")]
    assert days == [days[1] - 1, days[1], days[1] + 1]
    assert times("f") == 1


def test_a_target_that_is_a_function(cache, targets):
    """Told the context and the arguments; the file's existence means a hit."""

    @cached(target=lambda context, arguments: f"{context.task_name[-1]}/{arguments['x']}.pkl")
    def f(x):
        ran("f")
        return x

    assert (f(1), f(1), f(2)) == (1, 1, 2)
    assert sorted(str(path.relative_to(targets)) for path in targets.rglob("*.pkl")) == [
        "f/1.pkl",
        "f/2.pkl",
    ]
    assert times("f") == 2


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (lambda context, arguments: 1 / 0, "raised ZeroDivisionError"),
        (lambda context, arguments: "../../x.pkl", "inside the target directory"),
        (lambda context, arguments: "/x.pkl", "inside the target directory"),
        (lambda context, arguments: None, "returned None"),
    ],
    ids=["raises", "outside", "absolute", "no text"],
)
def test_a_target_function_that_cannot_work(cache, targets, target, told):
    """A named error that names the function; nothing is written."""

    @cached(target=target)
    def f():
        ran("f")

    with pytest.raises(ConfigurationError, match=rf"test_a_target_function.*f.*{told}"):
        f()
    assert not list(targets.rglob("*.pkl"))
    assert times("f") == 0


# ---- where the result storage says


def test_a_result_storage_of_its_own_holds_the_target(closed, tmp_path):
    """A directory; another run, whose own cache is empty, finds it there."""
    f = answer(result_storage=tmp_path / "results", policy=kept_in(tmp_path))
    with closed:
        assert f() == [1]
    file = tmp_path / "results" / "targets" / "answer.json"
    assert json.loads(file.read_text()) == [1]
    assert not (tmp_path / "cache" / "targets").exists()
    with Cache(tmp_path / "another"):
        assert f() == [1]
        file.unlink()
        assert f() == [2]
    assert json.loads(file.read_text()) == [2]
    assert times("f") == 2


def kept_in(tmp_path):
    return CachePolicy(key_storage=tmp_path / "records")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A URL that several machines reach, with their key."""
    monkeypatch.setenv("PYTEST_TASKCACHE_SIGNING_KEY", "0123456789abcdef-of-a-team")
    return f"file://{tmp_path}/shared"


def test_a_target_in_a_shared_storage(shared, tmp_path, root):
    """Under its name, in the namespace; another machine hits, unless someone changed it."""
    f = answer(target="{date:%Y}/größe.json")

    def machine(name):
        return Cache(tmp_path / name, root=root, storage=shared)

    with machine("one"):
        assert f() == [1]
    (blob,) = (tmp_path / "shared" / "targets" / "main").rglob("*.json")
    assert json.loads(blob.read_bytes()) == [1]
    with machine("two"):
        assert f.call().decision.origin is Origin.COMMITTED
    blob.write_bytes(b"[666]")
    with machine("three"):
        assert f() == [2]  # nothing vouches for what others wrote
    assert json.loads(blob.read_bytes()) == [2]
    assert times("f") == 2


def test_a_target_of_several_tiers(shared, tmp_path, root):
    """It is in each, and read from the nearest."""
    f = answer()
    with Cache(tmp_path / "one", root=root, storage=f"local, {shared}"):
        assert f() == [1]
    assert (tmp_path / "one" / "targets" / "answer.json").is_file()
    assert list((tmp_path / "shared" / "targets").rglob("answer.json"))
    with Cache(tmp_path / "two", root=root, storage=f"local, {shared}"):
        assert f() == [1]
    assert times("f") == 1


def test_consumers_rest_on_another_machines_target(shared, tmp_path):
    """It becomes a local file, too, whose edits they notice."""
    f = answer()

    @cached
    def consumer():
        ran("consumer")
        return f()

    for name, computed in (("one", 1), ("one", 1), ("two", 2), ("two", 2)):
        place = tmp_path / name / ".cache"
        place.parent.mkdir(exist_ok=True)
        with Cache(place, root=place.parent, storage=shared):
            assert consumer() == [1]
        assert times("consumer") == computed
        assert json.loads((place / "targets" / "answer.json").read_text()) == [1]
    (place / "targets" / "answer.json").write_text("[5]")
    with Cache(place, root=place.parent, storage=shared):
        assert consumer() == [5]
    assert (times("consumer"), times("f")) == (3, 1)


def test_targets_go_with_their_records(cache, targets):
    """One that was edited since is its editor's, and one that was made by hand its maker's."""
    f = cached(target="{n}/value.json", serializer="json")(lambda n: n)
    f(1), f(2), f(3)
    (targets / "2" / "value.json").write_text("22")
    (targets / "by hand.json").write_text("4")
    local = cache.engine.parts.local
    local.prune(full=True)
    assert len(list(targets.rglob("*.json"))) == 4
    local.remove_records([each.id for each in local.scan() if _names(each, "1/value.json")])
    local.prune()
    assert not (targets / "1").exists()
    assert (targets / "3" / "value.json").exists()
    cache.clear()
    left = {str(path.relative_to(targets)) for path in targets.rglob("*.json")}
    assert left == {"2/value.json", "by hand.json"}


def _names(record, target):
    return ("target", target) in record.parts


def test_targets_of_a_shared_storage_go_with_their_records(shared, tmp_path, root):
    """When it is pruned."""
    f = cached(target="{n}.json", serializer="json")(lambda n: n)
    with Cache(tmp_path / "one", root=root, storage=shared):
        f(1), f(2)
    store = storage_by_url(shared)
    doomed = [each.id for each in store.scan() if _names(each, "1.json")]
    assert len(doomed) == 1
    for record in (tmp_path / "shared" / "records").rglob("*.json"):
        if decode_variant(record.read_bytes()).id in doomed:
            os.utime(record, (0, 0))
    prune(store, Retention(older_than=3600))
    assert [each.name for each in (tmp_path / "shared" / "targets").rglob("*.json")] == ["2.json"]
