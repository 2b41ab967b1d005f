"""What a test's verdict does to what it staged and used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from staged_samples import Area, area_at, entry_of, ids, variant_of

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.transactions.settlement import Verdict
from pytest_taskcache.transactions.staging import RETAINED_SECONDS, Settled

PASSED, FAILED, ENDED = Verdict.PASSED, Verdict.FAILED, Verdict.ENDED


@pytest.fixture(params=["local", "memory"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Area]:
    memory = request.param == "memory"
    area = Area(MemoryStorage()) if memory else area_at(tmp_path / "cache")
    yield area
    area.storage.close()


def test_staged_values_are_visible_to_the_run_alone(area: Area) -> None:
    """Other tests of the run start from a value at once; other runs see it when it is proven."""
    area.put("a", "t1")
    assert area.visible("a") == {"a"}
    assert area.committed("a") == set()
    assert Area(area.storage, "another run").visible("a") == set()


def test_what_a_reader_is_told_survives(area: Area) -> None:
    """The record as the producer staged it, who that was, and where it is to be committed."""
    entry = entry_of("a", "t\udc80", "s1", "s2", held=True, retryable=True, destination="redis")
    area.staging.stage(entry, "t1")
    ((key, (found,)),) = area.staging.visible(["key of a", "no"]).items()
    told = found.variant, found.producer, found.destination
    assert (key, told) == ("key of a", (entry.variant, "t\udc80", "redis"))


def test_visible_entries_come_newest_first(area: Area) -> None:
    """Whoever looks up a key twice gets the latest value of the run."""
    for number in (2, 1, 3):
        variant = variant_of(f"v{number}", key="k", created=float(number))
        area.staging.stage(replace(entry_of("x", "t"), variant=variant), "t")
    assert [e.variant.id for e in area.staging.visible(["k"])["k"]] == ["v3", "v2", "v1"]


def test_staging_twice_changes_nothing(area: Area) -> None:
    """A retried write is harmless."""
    area.put("a", "t1")
    area.put("a", "t1")
    assert area.visible("a") == {"a"}
    assert area.staging.settle("t1", PASSED).committed == (variant_of("a"),)


def test_a_passing_test_commits_its_own(area: Area) -> None:
    """All of them together, and nobody else's."""
    area.put("a", "t1")
    area.put("b", "t1")
    area.put("c", "t2")
    settled = area.staging.settle("t1", PASSED)
    assert ids(settled.committed) == {"a", "b"}
    assert (settled.dropped, settled.failures) == (0, ())
    assert area.committed("a", "b", "c") == {"a", "b"}
    assert area.visible("a", "b", "c") == {"c"}
    assert area.staging.settle("t1", PASSED) == Settled()


def test_a_failing_test_leaves_nothing(area: Area) -> None:
    """Its values are gone, and settling it again is harmless."""
    area.put("a", "t1")
    assert area.staging.settle("t1", FAILED).dropped == 1
    assert area.visible("a") == area.committed("a") == set()
    assert area.use("t2", "a") == set()
    assert area.staging.settle("t1", FAILED) == Settled()


def test_a_passing_user_commits_what_a_failing_producer_left(area: Area) -> None:
    """A value is as good as the tests that passed with it."""
    area.put("a", "t1")
    assert area.use("t2", "a", "unknown") == {"a"}
    assert area.staging.settle("t1", FAILED).dropped == 0
    assert area.visible("a") == set()
    assert area.use("t3", "a") == set()
    assert ids(area.staging.settle("t2", PASSED).committed) == {"a"}
    assert area.committed("a") == {"a"}


def test_a_hidden_value_goes_with_its_last_claim(area: Area) -> None:
    """When the users of a failed test's value fail too, nothing of it stays."""
    area.put("a", "t1")
    area.use("t2", "a")
    area.staging.settle("t1", FAILED)
    assert area.staging.settle("t2", FAILED).dropped == 1
    assert area.committed("a") == set()
    assert area.storage.index.read(
        "count", lambda c: c.execute("SELECT count(*) FROM variants").fetchone()
    ) == (0,)


def test_sources_commit_with_what_derives_from_them(area: Area) -> None:
    """Committing a value commits the staged values it was computed from, transitively."""
    area.put("a", "t1")
    area.use("t2", "a")
    area.put("b", "t2", "a")
    area.use("t3", "b")
    area.put("c", "t3", "b", "committed long ago")
    area.staging.settle("t1", FAILED)
    area.staging.settle("t2", FAILED)
    assert ids(area.staging.settle("t3", PASSED).committed) == {"a", "b", "c"}
    assert area.committed("a", "b", "c") == {"a", "b", "c"}


def test_a_failed_users_own_values_go_and_the_source_stays(area: Area) -> None:
    """A failing user takes back nothing that its producer may still commit."""
    area.put("a", "t1")
    area.use("t2", "a")
    area.put("b", "t2", "a")
    assert area.staging.settle("t2", FAILED).dropped == 1
    assert ids(area.staging.settle("t1", PASSED).committed) == {"a"}


def test_a_source_goes_with_the_last_of_what_derives_from_it(area: Area) -> None:
    """It was kept for a user of its derivative alone; when that user fails, nothing stays."""
    area.put("a", "t1")
    area.use("t2", "a")
    area.put("b", "t2", "a")
    area.use("t3", "b")
    area.staging.settle("t1", FAILED)
    assert area.staging.settle("t2", FAILED).dropped == 0
    assert area.staging.settle("t3", FAILED).dropped == 2


# -------------------------------------------------------------------- wider-scoped fixtures


def test_a_fixtures_value_stays_visible_after_a_failing_test(area: Area) -> None:
    """The fixture is still alive; other workers may start from its value."""
    area.put("fix", "F")
    area.use("t1", "fix")
    area.staging.settle("t1", FAILED)
    assert area.visible("fix") == {"fix"}
    area.use("t2", "fix")
    assert ids(area.staging.settle("t2", PASSED).committed) == {"fix"}
    assert area.staging.settle("F", ENDED) == Settled()


def test_a_fixture_whose_users_all_failed_commits_nothing(area: Area) -> None:
    """At the end of its scope the value goes."""
    area.put("fix", "F")
    area.use("t1", "fix")
    area.staging.settle("t1", FAILED)
    assert area.staging.settle("F", ENDED).dropped == 1
    assert area.visible("fix") == area.committed("fix") == set()


def test_a_held_value_waits_for_the_end_of_its_scope(area: Area) -> None:
    """With consumers="all" the first passing user is not enough, for it or for what derives."""
    area.put("fix", "F", held=True)
    area.use("t1", "fix")
    area.put("own", "t1", "fix")
    area.put("free", "t1")
    settled = area.staging.settle("t1", PASSED)
    assert ids(settled.committed) == {"free"}
    assert area.committed("fix", "own") == set()
    assert area.visible("fix", "own") == {"fix", "own"}
    area.use("t2", "fix")
    assert area.staging.settle("t2", PASSED).committed == ()
    assert ids(area.staging.settle("F", ENDED).committed) == {"fix", "own"}
    assert area.committed("fix", "own") == {"fix", "own"}


def test_one_failing_user_poisons_a_held_value(area: Area) -> None:
    """And with it all that derived from it, before and after."""
    area.put("fix", "F", held=True)
    for test in ("t1", "t2", "t3"):
        area.use(test, "fix")
    area.put("before", "t1", "fix")
    assert area.staging.settle("t1", PASSED).committed == ()
    assert area.staging.settle("t2", FAILED).dropped == 1
    area.put("after", "t3", "fix")
    area.put("apart", "t3")
    settled = area.staging.settle("t3", PASSED)
    assert (ids(settled.committed), settled.dropped) == ({"apart"}, 1)
    assert area.staging.settle("F", ENDED).dropped == 1
    assert area.committed("fix", "before", "after", "apart") == {"apart"}


def test_a_held_value_waits_for_users_that_outlive_its_fixture(area: Area) -> None:
    """The last user's verdict counts, on whichever worker it runs."""
    for name, verdict in (("good", PASSED), ("bad", FAILED)):
        area.put(name, f"F {name}", held=True)
        area.use(f"t1 {name}", name)
        area.use(f"t2 {name}", name)
        area.staging.settle(f"t1 {name}", PASSED)
        assert area.staging.settle(f"F {name}", ENDED).committed == ()
        area.staging.settle(f"t2 {name}", verdict)
    assert area.committed("good", "bad") == {"good"}


@pytest.mark.parametrize("held", [False, True])
def test_a_value_in_use_is_there_for_others_after_the_end_of_its_fixture(
    area: Area, held: bool
) -> None:
    """The last test of a worker ends its session fixtures before it is judged itself: whoever
    waited for the value in between would find nothing, and compute it a second time."""
    area.put("fix", "F", held=held)
    area.use("t1", "fix")
    area.staging.settle("F", ENDED)
    assert area.visible("fix") == {"fix"}
    assert area.use("t2", "fix")
    assert area.staging.settle("t1", FAILED).dropped == 0
    assert area.visible("fix") == {"fix"}
    settled = area.staging.settle("t2", PASSED)
    assert (ids(settled.committed), settled.dropped) == ((set(), 1) if held else ({"fix"}, 0))


def test_a_value_goes_with_its_last_user_once_its_fixture_has_ended(area: Area) -> None:
    """Nobody is left who could pass with it."""
    area.put("fix", "F")
    area.use("t1", "fix")
    area.staging.settle("F", ENDED)
    assert area.staging.settle("t1", FAILED).dropped == 1
    assert area.visible("fix") == set()


def test_a_held_value_that_nobody_used_goes(area: Area) -> None:
    """No passing user, no commit."""
    area.put("fix", "F", held=True)
    assert area.staging.settle("F", ENDED).dropped == 1
    assert area.committed("fix") == set()


def test_what_derives_from_two_held_values_waits_for_both(area: Area) -> None:
    """Nothing derived from a held value commits before it."""
    area.put("one", "F1", held=True)
    area.put("two", "F2", held=True)
    area.use("t", "one", "two")
    area.put("own", "t", "one", "two")
    area.staging.settle("t", PASSED)
    assert ids(area.staging.settle("F1", ENDED).committed) == {"one"}
    assert ids(area.staging.settle("F2", ENDED).committed) == {"two", "own"}


# ------------------------------------------------------------------ savepoints and retries


def test_a_failed_savepoint_drops_its_own(area: Area) -> None:
    """The outer transaction lives on with the rest."""
    area.put("outer", "t")
    area.put("inner", "t")
    area.put("others", "t2")
    area.use("t", "others")
    assert area.staging.drop(["inner", "others", "unknown"], "t").dropped == 1
    assert area.visible("outer", "inner", "others") == {"outer", "others"}
    assert ids(area.staging.settle("t", PASSED).committed) == {"outer"}


def test_a_dropped_value_that_others_use_stays_for_them(area: Area) -> None:
    """As when its whole test had failed."""
    area.put("a", "t")
    area.use("t2", "a")
    assert area.staging.drop(["a"], "t").dropped == 0
    assert area.visible("a") == set()
    assert ids(area.staging.settle("t2", PASSED).committed) == {"a"}


def test_retained_inputs_are_there_for_the_retry_alone(area: Area) -> None:
    """Prefect 0.x's input caching: the retry starts from them, and they commit if it passes."""
    area.put("input", "t#1", retryable=True)
    area.put("other", "t#1")
    assert area.staging.settle("t#1", FAILED, retain_for="test_t").dropped == 1
    assert area.visible("input", "other") == set()
    assert area.visible("input", "other", test="test_u") == set()
    assert area.visible("input", "other", test="test_t") == {"input"}
    assert area.use("t#2", "input") == {"input"}
    area.put("own", "t#2", "input")
    assert area.staging.settle("t#2", FAILED, retain_for="test_t").dropped == 1
    assert area.use("t#3", "input") == {"input"}
    assert ids(area.staging.settle("t#3", PASSED, retain_for="test_t").committed) == {"input"}
    assert area.visible("input", test="test_t") == set()
    assert area.committed("input") == {"input"}


def test_retained_inputs_survive_the_run_for_a_week(area: Area) -> None:
    """`--lf` in the next run starts from them; what nobody retried goes."""
    area.put("input", "t#1", retryable=True)
    area.staging.settle("t#1", FAILED, retain_for="test_t")
    area.staging.end()
    assert area.staged() == 1
    later = Area(area.storage, "next run")
    later.staging.sweep()
    assert later.visible("input", test="test_t") == {"input"}
    assert later.use("t#1", "input") == {"input"}
    assert ids(later.staging.settle("t#1", PASSED).committed) == {"input"}

    later.put("old", "u#1", retryable=True)
    later.staging.settle("u#1", FAILED, retain_for="test_u")
    area.storage.index.write(
        "age",
        lambda c: c.execute(
            "UPDATE variants SET retained_at = retained_at - ?", (RETAINED_SECONDS + 1,)
        ),
    )
    assert area.swept() == 1
    assert later.visible("old", test="test_u") == set()


def test_what_the_passing_retry_did_not_need_goes(area: Area) -> None:
    """A retained input whose key changed meanwhile is not kept for a week."""
    area.put("stale", "t#1", retryable=True)
    area.staging.settle("t#1", FAILED, retain_for="test_t")
    assert area.staging.settle("t#2", PASSED, retain_for="test_t").dropped == 1
    assert area.visible("stale", test="test_t") == area.committed("stale") == set()


# --------------------------------------------------------------------- other key storages


class Remote:
    def __init__(self, area: Area, *, failing: str = "") -> None:
        self.area = area
        self.failing = failing
        self.published: list[tuple[str, set[str]]] = []

    def __call__(self, destination: str, variants: Sequence[Variant]) -> None:
        # The write lock is free meanwhile: others can go on staging.
        self.area.put(f"meanwhile {destination}", "somebody else")
        self.published.append((destination, ids(variants)))
        if destination == self.failing:
            raise StorageError(destination, "write records", "network gone")


def test_other_storages_are_published_to(area: Area) -> None:
    """Each with its records in one batch, beside what is local."""
    area.put("local", "t")
    area.put("s3 a", "t", destination="s3")
    area.put("s3 b", "t", destination="s3")
    area.put("sql", "t", destination="sql")
    remote = Remote(area)
    settled = area.staging.settle("t", PASSED, publish=remote)
    assert sorted(remote.published) == [("s3", {"s3 a", "s3 b"}), ("sql", {"sql"})]
    assert ids(settled.committed) == {"local", "s3 a", "s3 b", "sql"}
    assert area.committed("local", "s3 a", "s3 b", "sql") == {"local"}
    assert area.visible("local", "s3 a", "s3 b", "sql") == set()


def test_a_failed_publication_is_reported_and_the_rest_commits(area: Area) -> None:
    """A broken remote costs its own records only."""
    area.put("local", "t")
    area.put("s3", "t", destination="s3")
    area.put("sql", "t", destination="sql")
    settled = area.staging.settle("t", PASSED, publish=Remote(area, failing="s3"))
    assert ids(settled.committed) == {"local", "sql"}
    assert settled.dropped == 1
    assert [str(failure) for failure in settled.failures] == [
        "s3: cannot write records: network gone"
    ]
    assert area.visible("s3") == set()
    assert area.committed("local") == {"local"}


def test_without_a_publisher_nothing_is_lost_silently(area: Area) -> None:
    """The caller hears of what could not be sent."""
    area.put("s3", "t", destination="s3")
    settled = area.staging.settle("t", PASSED)
    assert (settled.committed, settled.dropped, len(settled.failures)) == ((), 1, 1)


def test_what_is_being_published_can_no_longer_be_poisoned(area: Area) -> None:
    """Once all users passed and the commit began, a late user's failure changes nothing."""
    area.put("fix", "F", held=True, destination="s3")
    area.use("t1", "fix")
    area.staging.settle("t1", PASSED)

    def publish(destination: str, variants: Sequence[Variant]) -> None:
        area.put("late", "t2", "fix")
        area.staging.claim(["fix"], "t2")
        area.staging.settle("t2", FAILED)

    assert ids(area.staging.settle("F", ENDED, publish=publish).committed) == {"fix"}
    assert area.visible("fix", "late") == set()
