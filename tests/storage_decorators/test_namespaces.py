"""Namespaces in one storage: read from some, written to one."""

import pytest
from decorator_parts import KEY, NOW, Faults, make_variant, store

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.record import VARIANTS
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.namespaces import Namespace, decode, encode
from pytest_taskcache.storage.remote.signed import Signed


def within(storage: MemoryStorage, namespace: str, *also: str) -> Signed:
    """Whoever writes a namespace and reads it and others."""
    return Signed(storage, (KEY,), namespace=namespace, also=also, clock=lambda: NOW)


def ids(storage: Signed, *keys: str) -> dict[str, list[str]]:
    """What is read, by id: the rest differs by its signature."""
    found = storage.read_records(keys)
    return {key: [variant.id for variant in variants] for key, variants in found.items()}


NASTY = [
    "main",
    "..",
    ".",
    "../main",
    "main/..",
    "a/b",
    "a%2Fb",
    "A b",
    "ünïcode",
    "\ud800",
    ".git",
    "x" * 300,
    "a\\b",
    "a\nb",
    "a:b",
]


@pytest.mark.parametrize("text", NASTY)
def test_an_encoded_name_is_one_harmless_path_component(text: str) -> None:
    """No name leaves its place, whatever it contains; and it can be read back."""
    encoded = encode(text)

    assert "/" not in encoded
    assert "\\" not in encoded
    assert not encoded.startswith(".")
    assert encoded.isascii()
    assert decode(encoded) == text


def test_own_records_come_with_those_of_main() -> None:
    """A branch reads what main has computed and writes its own, which main does not see."""
    inner = MemoryStorage()
    main = within(inner, "main")
    branch = within(inner, "pr~topic", "main")
    shared = make_variant(1, key="shared", created=NOW)
    own = make_variant(2, key="shared", created=NOW + 1)
    main.write_records([shared])
    branch.write_records([own])

    assert ids(main, "shared") == {"shared": [shared.id]}
    assert ids(branch, "shared") == {"shared": [own.id, shared.id]}
    for variant in (shared, own):
        name = str(variant.identity)
        assert branch.recent([name])[name].id == variant.id
    assert main.recent([str(own.identity)]) == {}


def test_one_record_can_lie_in_several_namespaces() -> None:
    """Ids are unique over a storage; the copy in another namespace is a record of its own."""
    inner = MemoryStorage()
    variant = make_variant(1, key="k")
    one, other = within(inner, "one"), within(inner, "other")
    one.write_records([variant])
    other.write_records([variant])

    assert ids(other, "k") == {"k": [variant.id]}
    assert ids(within(inner, "x", "one", "other"), "k") == {"k": [variant.id]}
    other.remove_records([variant.id])
    assert ids(other, "k") == {}
    assert ids(one, "k") == {"k": [variant.id]}


def test_all_namespaces_are_read_in_one_request() -> None:
    """Two namespaces do not cost two round trips."""
    asked: list[int] = []

    class Counting(MemoryStorage):
        def read_records(self, keys):  # type: ignore[no-untyped-def]
            asked.append(len(keys))
            return super().read_records(keys)

    within(Counting(), "own", "main").read_records(["a", "b", "c"])

    assert asked == [6]


def test_as_many_variants_as_a_record_may_have() -> None:
    """The newest of all namespaces."""
    inner = MemoryStorage()
    for number in range(VARIANTS):
        within(inner, "one").write_records([make_variant(2 * number, key="k")])
        within(inner, "two").write_records([make_variant(2 * number + 1, key="k")])

    (found,) = within(inner, "one", "two").read_records(["k"]).values()

    numbers = [int(variant.id.partition("-")[0]) for variant in found]
    assert numbers == list(range(2 * VARIANTS - 1, VARIANTS - 1, -1))


@pytest.mark.parametrize("text", NASTY)
def test_any_namespace_and_any_key_keep_apart(text: str) -> None:
    """A key named outright, or a branch, can hold anything and reaches nothing of another's."""
    inner = MemoryStorage()
    victim = make_variant(1, key="victim")
    within(inner, "main").write_records([victim])
    attacker = within(inner, f"{text}~")
    mine = make_variant(2, key=text)
    attacker.write_records([mine])

    for key in ("../main/victim", "main/victim", "victim", "/victim"):
        assert ids(attacker, key) == {}
    assert ids(attacker, text) == {text: [mine.id]}
    assert ids(within(inner, "main"), "victim", text) == {"victim": [victim.id]}


def test_a_signature_covers_the_namespace() -> None:
    """A record carried from a branch's namespace into main's is not believed."""
    inner = MemoryStorage()
    variant = make_variant(1, payload=b"value")
    store(within(inner, "branch"), variant, b"value")
    (lying,) = inner.scan()
    target = Namespace("main")
    branch = Namespace("branch").outer(lying)
    assert branch is not None
    inner.write_records([target.inner(branch)])

    faults = Faults()
    main = Signed(inner, (KEY,), namespace="main", clock=lambda: NOW, on_fault=faults)
    assert ids(within(inner, "branch"), variant.key)
    assert ids(main, variant.key) == {}
    assert sum(faults.values()) == 1


@pytest.mark.parametrize("name", ["", " "])
def test_a_namespace_needs_a_name(name: str) -> None:
    """An empty template variable does not silently mean everybody's namespace."""
    with pytest.raises(ConfigurationError, match="namespace"):
        within(MemoryStorage(), name)
