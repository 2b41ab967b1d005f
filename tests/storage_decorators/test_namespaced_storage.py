"""Namespaces in one storage: read from some, written to one."""

from dataclasses import replace

import pytest
from decorator_parts import KEY, NOW, make_variant, store

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.record import VARIANTS
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.namespaced import Namespaced, decode, encode
from pytest_taskcache.storage.remote.signed import Signed

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
    main = Namespaced(inner, "main")
    branch = Namespaced(inner, "pr~topic", ["pr~topic", "main"])
    shared = make_variant(1, key="shared", created=NOW)
    own = make_variant(2, key="shared", created=NOW + 1)
    main.write_records([shared])
    branch.write_records([own])

    assert main.read_records(["shared"]) == {"shared": (shared,)}
    assert branch.read_records(["shared"]) == {"shared": (own, shared)}
    assert branch.recent([str(shared.identity)]) == {str(shared.identity): shared}
    assert branch.recent([str(own.identity)]) == {str(own.identity): own}
    assert main.recent([str(own.identity)]) == {}


def test_writing_does_not_imply_reading() -> None:
    """A namespace is read only if it is named."""
    storage = Namespaced(MemoryStorage(), "nightly", ["main"])
    storage.write_records([make_variant(1, key="k")])

    assert storage.read_records(["k"]) == {}


def test_one_record_can_lie_in_several_namespaces() -> None:
    """Ids are unique over a storage; the copy in another namespace is a record of its own."""
    inner = MemoryStorage()
    variant = make_variant(1, key="k")
    one, other = Namespaced(inner, "one"), Namespaced(inner, "other")
    one.write_records([variant])
    other.write_records([variant])

    assert other.read_records(["k"]) == {"k": (variant,)}
    assert Namespaced(inner, "x", ["one", "other"]).read_records(["k"]) == {"k": (variant,)}
    other.remove_records([variant.id])
    assert other.read_records(["k"]) == {}
    assert one.read_records(["k"]) == {"k": (variant,)}


def test_all_namespaces_are_read_in_one_request() -> None:
    """Two namespaces do not cost two round trips."""
    asked: list[int] = []

    class Counting(MemoryStorage):
        def read_records(self, keys):  # type: ignore[no-untyped-def]
            asked.append(len(keys))
            return super().read_records(keys)

    Namespaced(Counting(), "own", ["own", "main"]).read_records(["a", "b", "c"])

    assert asked == [6]


def test_as_many_variants_as_a_record_may_have() -> None:
    """The newest of all namespaces."""
    inner = MemoryStorage()
    for number in range(VARIANTS):
        Namespaced(inner, "one").write_records([make_variant(2 * number, key="k")])
        Namespaced(inner, "two").write_records([make_variant(2 * number + 1, key="k")])

    (found,) = Namespaced(inner, "one", ["one", "two"]).read_records(["k"]).values()

    numbers = [int(variant.id.partition("-")[0]) for variant in found]
    assert numbers == list(range(2 * VARIANTS - 1, VARIANTS - 1, -1))


@pytest.mark.parametrize("text", NASTY)
def test_any_namespace_and_any_key_keep_apart(text: str) -> None:
    """A key named outright, or a branch, can hold anything and reaches nothing of another's."""
    inner = MemoryStorage()
    victim = make_variant(1, key="victim")
    Namespaced(inner, "main").write_records([victim])
    attacker = Namespaced(inner, f"{text}~")
    mine = make_variant(2, key=text)
    attacker.write_records([mine])

    for key in ("../main/victim", "main/victim", "victim", "/victim"):
        assert attacker.read_records([key]) == {}
    assert attacker.read_records([text]) == {text: (mine,)}
    assert Namespaced(inner, "main").read_records(["victim", text]) == {"victim": (victim,)}


def test_a_signature_covers_the_namespace() -> None:
    """A record carried from a branch's namespace into main's is not believed."""
    inner = MemoryStorage()
    keys = (KEY,)
    variant = make_variant(1, payload=b"value")
    branch = Namespaced(Signed(inner, keys, namespace="project"), "branch")
    store(branch, variant, b"value")
    (lying,) = inner.all_records()
    moved = replace(lying, id=f"{lying.id}x", key=lying.key.replace("branch/", "main/"))
    inner.write_records([moved])

    signed = Signed(inner, keys, namespace="project")
    assert Namespaced(signed, "branch").read_records([variant.key])
    assert Namespaced(signed, "main").read_records([variant.key]) == {}
    assert sum(signed.refused.values()) == 1


@pytest.mark.parametrize("name", ["", " "])
def test_a_namespace_needs_a_name(name: str) -> None:
    """An empty template variable does not silently mean everybody's namespace."""
    with pytest.raises(ConfigurationError, match="namespace"):
        Namespaced(MemoryStorage(), name)
