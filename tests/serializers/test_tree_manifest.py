"""Manifests come from a storage that others may write to: nothing in one leads out of the tree."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Restore
from pytest_taskcache.serializers.trees import (
    EntryKind,
    Manifest,
    TreeEntry,
    TreeError,
    TreeSerializer,
    check,
    decode,
    encode,
)


def written(*_: object) -> NoReturn:
    raise AssertionError("something was written before the manifest was refused")


UNTOUCHED = Restore(written, written)
DIGEST = "0" * 32

ROOT: dict[str, Any] = {"path": "", "kind": "directory", "mtime": 0, "mode": 0o755}


def file(path: str, **more: object) -> dict[str, Any]:
    entry = {"path": path, "kind": "file", "mtime": 0, "mode": 0o644, "size": 0, "digest": DIGEST}
    return {**entry, **more}


def directory(path: str, **more: object) -> dict[str, Any]:
    return {**ROOT, "path": path, **more}


def link(path: str, target: object) -> dict[str, Any]:
    return {"path": path, "kind": "link", "mtime": 0, "target": target}


def document(*entries: object, name: object = "tree", **more: object) -> bytes:
    whole = {"format": "pytest-taskcache tree", "version": 1, "name": name, "entries": entries}
    return json.dumps({**whole, **more}).encode()


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "..",
        ".",
        "/etc/evil",
        "a/../../evil",
        "a//evil",
        "a/",
        "/",
        "evil\0.txt",
        "a/./b",
    ],
)
def test_paths_that_lead_elsewhere_are_refused_before_anything_is_written(path: str) -> None:
    """Neither upwards nor absolute, nor cut short by a NUL."""
    for entry in (file(path), directory(path), link(path, "x")):
        data = document(ROOT, directory("a"), entry)
        with pytest.raises(
            SerializationError, match=r"no path inside a tree|not lie in a directory"
        ):
            TreeSerializer().load(memoryview(data), UNTOUCHED)


@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "/evil", "a/b", "evil\0"])
def test_the_trees_own_name_leads_nowhere_else(name: str) -> None:
    """It is a plain name below the scratch directory."""
    with pytest.raises(SerializationError, match="no path inside a tree"):
        TreeSerializer().load(memoryview(document(ROOT, name=name)), UNTOUCHED)


@pytest.mark.parametrize(
    "entries",
    [
        [ROOT, link("l", "."), file("l/evil")],
        [ROOT, link("l", "sub"), directory("sub"), directory("l/evil")],
        [ROOT, file("f"), file("f/evil")],
        [ROOT, file("missing/evil")],
        [ROOT, file("late/evil"), directory("late")],
        [ROOT, file("twice"), link("twice", "x")],
        [ROOT, ROOT],
        [file(""), file("evil")],
        [file("evil")],
        [link("", "/etc")],
        [],
    ],
)
def test_entries_lie_in_directories_of_the_tree(entries: list[dict[str, Any]]) -> None:
    """Never under a link or a file, never twice, and the tree itself comes first."""
    with pytest.raises(SerializationError):
        TreeSerializer().load(memoryview(document(*entries)), UNTOUCHED)


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "l2/../../x", "", "a\0b"])
def test_links_of_a_forged_manifest_lead_nowhere_else(target: str) -> None:
    """The same rule as when a tree is stored."""
    data = document(ROOT, directory("a"), link("l", target), link("l2", "a"))
    with pytest.raises(SerializationError, match="link"):
        TreeSerializer().load(memoryview(data), UNTOUCHED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b"{}",
        document(ROOT, version=2),
        document(ROOT, format="other"),
        document(ROOT, name=1),
        document(ROOT, entries="none"),
        document(ROOT, 1),
        document(ROOT, {}),
        document(ROOT, {**ROOT, "path": "x", "kind": "socket"}),
        document(ROOT, directory("x", mode=0o4755)),
        document(ROOT, directory("x", mode=-1)),
        document(ROOT, directory("x", mode=True)),
        document(ROOT, directory("x", mtime=1.5)),
        document(ROOT, directory("x", mtime=1 << 63)),
        document(ROOT, file("x", size=-1)),
        document(ROOT, file("x", digest="../../../../etc/passwd")),
        document(ROOT, file("x", digest="0" * 31 + "\n")),
        document(ROOT, link("x", None)),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Wrong types, numbers and digests included: digests become file names in storages."""
    with pytest.raises(SerializationError):
        TreeSerializer().load(memoryview(data), UNTOUCHED)


names = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=4).filter(
    lambda name: name not in (".", "..")
)


@given(
    name=names,
    paths=st.lists(st.lists(names, min_size=1, max_size=3), max_size=6),
    mtime=st.integers(-(1 << 62), 1 << 62),
    mode=st.integers(0, 0o777),
)
@settings(deadline=None, max_examples=60)
def test_every_manifest_comes_back(
    name: str, paths: list[list[str]], mtime: int, mode: int
) -> None:
    """Whatever the names are, the entries are read as they were written."""
    entries = {"": TreeEntry("", EntryKind.DIRECTORY, mtime, mode)}
    for parts in paths:
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            entries.setdefault(path, TreeEntry(path, EntryKind.DIRECTORY, mtime, mode))
    manifest = Manifest(name, tuple(entries.values()))
    assert decode(encode(manifest)) == manifest


steps = st.sampled_from(["..", ".", "a", "b", "l", "m", "n"])


@given(
    targets=st.lists(st.lists(steps, min_size=1, max_size=5).map("/".join), min_size=3, max_size=3),
    places=st.lists(st.sampled_from(["", "a/", "a/b/"]), min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=150)
def test_no_accepted_link_leads_out_as_the_system_sees_it(
    tmp_path_factory: pytest.TempPathFactory, targets: list[str], places: list[str]
) -> None:
    """The rule agrees with where the operating system would end up."""
    outer = tmp_path_factory.mktemp("outer").resolve()
    root = outer / "tree"
    (root / "a" / "b").mkdir(parents=True)
    entries = [TreeEntry(p, EntryKind.DIRECTORY, 0, 0o755) for p in ("", "a", "a/b")]
    for place, name, target in zip(places, "lmn", targets, strict=True):
        entries.append(TreeEntry(place + name, EntryKind.LINK, 0, target=target))
        (root / (place + name)).symlink_to(target)
    try:
        check(Manifest("tree", tuple(entries)))
    except TreeError:
        return
    for entry in entries[3:]:
        try:
            end = Path(root, entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            continue  # leads nowhere, or in a circle
        assert end.is_relative_to(root)


def test_damage_is_an_error_or_another_manifest() -> None:
    """Flipped bits raise nothing but the one error, and never lead out of the tree."""
    entries = (
        TreeEntry("", EntryKind.DIRECTORY, 1, 0o755),
        TreeEntry("a", EntryKind.DIRECTORY, 2, 0o700),
        TreeEntry("a/f", EntryKind.FILE, 3, 0o644, 9, DIGEST),
        TreeEntry("l", EntryKind.LINK, 4, target="a/f"),
    )
    data = encode(Manifest("tree", entries))
    picks = random.Random(5)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        damaged[picks.randrange(len(data))] ^= 1 << picks.randrange(8)
        try:
            check(decode(bytes(damaged)))
        except TreeError:
            refused += 1
    assert refused > 0
    for end in range(len(data)):
        with pytest.raises(TreeError):
            decode(data[:end])
