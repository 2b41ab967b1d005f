"""Users can say what makes their values, by a registered hasher or a method of the class."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pytest_taskcache.digests.values import reducers
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.digests.values.reducers import REDUCERS, register_hasher
from pytest_taskcache.errors import ConfigurationError, UndigestableError


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(reducers, "_hashers", dict(reducers._hashers))
    yield
    REDUCERS.clear()


class Database:
    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()


class Replica(Database):
    pass


class Shard(Database):
    pass


class Model:
    def __init__(self, weights: list[int]) -> None:
        self.weights = weights
        self.lock = threading.Lock()

    def __taskcache_key__(self) -> object:
        return self.weights


class Tuned(Model):
    pass


class Broken(Model):
    def __taskcache_key__(self) -> object:
        raise ValueError("not fitted")


def url_of(database: Database) -> object:
    return database.url


def test_registered_hasher_makes_a_type_digestable() -> None:
    """Without it the lock inside is refused; with it only what it returns counts."""
    with pytest.raises(UndigestableError, match=r"db\.lock"):
        digest_value(Database("a"), path="db")
    register_hasher(Database, url_of)
    assert digest_value(Database("a")) == digest_value(Database("a"))
    assert digest_value(Database("a")) != digest_value(Database("b"))
    assert digest_value([Database("a")]) != digest_value(["a"])


def test_hasher_applies_to_subclasses_and_tells_them_apart() -> None:
    """A subclass inherits the hasher; the type's own name is mixed in."""
    register_hasher(Database, url_of)
    assert digest_value(Replica("a")) == digest_value(Replica("a"))
    assert len({digest_value(cls("a")) for cls in (Database, Replica, Shard)}) == 3


def test_subclass_keeps_its_own_hasher_whatever_the_order() -> None:
    """The nearest class with a hasher decides, also if it was registered later."""
    register_hasher(Database, url_of)
    before = digest_value(Replica("a"))
    register_hasher(Replica, lambda database: ["replica", database.url])
    assert digest_value(Replica("a")) != before
    assert digest_value(Shard("a")) == digest_value(Shard("a"))


def test_key_method_digests_an_object_by_what_it_returns() -> None:
    """``__taskcache_key__`` works like a hasher, and is inherited like any method."""
    assert digest_value(Model([1])) == digest_value(Model([1]))
    assert digest_value(Model([1])) != digest_value(Model([2]))
    assert digest_value(Tuned([1])) != digest_value(Model([1]))


def test_hasher_of_a_subclass_goes_before_the_method_of_its_base() -> None:
    """What is registered for the nearer class wins."""
    before = digest_value(Tuned([1]))
    register_hasher(Tuned, lambda model: len(model.weights))
    assert digest_value(Tuned([1])) != before
    assert digest_value(Tuned([1])) == digest_value(Tuned([2]))


def test_what_a_hasher_returns_may_hold_sets() -> None:
    """A hasher may return anything digestable."""
    register_hasher(Database, lambda database: {database.url, "x", ("y", 1)})
    assert digest_value(Database("a")) == digest_value(Database("a"))


def test_failing_key_is_a_refusal_with_its_reason() -> None:
    """The call runs uncached and says why."""
    with pytest.raises(UndigestableError, match=r"argument m: .*Broken .*ValueError: not fitted"):
        digest_value(Broken([1]), path="m")


def test_hasher_that_returns_the_value_itself_is_refused() -> None:
    """It would make all values of the type equal."""
    register_hasher(Database, lambda database: database)
    with pytest.raises(UndigestableError, match="returned the value itself"):
        digest_value(Database("a"))


def test_second_hasher_for_a_type_is_a_configuration_error() -> None:
    """Two hashers for one type would make keys depend on the order of imports."""
    register_hasher(Database, url_of)
    register_hasher(Database, url_of)
    with pytest.raises(ConfigurationError, match="another hasher already"):
        register_hasher(Database, lambda database: database.url)


@pytest.mark.parametrize("cls", [int, str, list, dict, tuple, set, object, type(None)])
def test_native_types_keep_their_digest(cls: type) -> None:
    """Their digest is fixed, and a hasher that would be ignored is an error."""
    with pytest.raises(ConfigurationError, match="fixed"):
        register_hasher(cls, repr)


def test_registration_refuses_what_is_no_type_or_no_function() -> None:
    """Mistakes are told when they are made."""
    with pytest.raises(ConfigurationError, match="not a type"):
        register_hasher("Database", url_of)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not callable"):
        register_hasher(Database, "url")  # type: ignore[arg-type]
