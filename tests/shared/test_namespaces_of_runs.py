"""Branches and pull requests: each writes its own namespace and reads main's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from team import SUITE, Place, Team

MAIN = {"GITHUB_REF_NAME": "main"}
BRANCH = {"GITHUB_REF_NAME": "topic/x"}
REQUEST = {"GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "main"}
"""A pull request whose author chose to call its branch ``main``."""


def settings_for(style: str, url: str) -> dict[str, str]:
    if style == "namespaces":
        return {"storage": url, "namespace": "{branch}", "read_namespaces": "main"}
    return {"storage": f"local:rw,{url}/{{branch}}:rw,{url}/main:r"}


def files_in(place: Place) -> set[Path]:
    return {p for p in Path(place.url.removeprefix("file://")).rglob("*") if p.is_file()}


@pytest.mark.parametrize("style", ["namespaces", "tiers"])
def test_a_branch_reads_main_and_writes_its_own(
    style: str, signing: Team, place_of: Callable[[str], Place]
) -> None:
    """What main computed a branch does not; what a pull request computed main does, even where
    its author called the branch ``main``."""
    place = place_of("file")
    root = Path(place.url.removeprefix("file://"))
    ini = settings_for(style, place.url)
    signing.files["test_suite.py"] = SUITE
    request = signing.checkout("request", ini)
    request.run(**REQUEST).assert_outcomes(passed=2)
    assert signing.counted() == 3
    main = signing.checkout("main", ini)
    main.run(**MAIN).assert_outcomes(passed=2)
    assert signing.counted() == 6, "main used what a pull request wrote"
    files = {file: file.read_bytes() for file in files_in(place)}
    assert files

    fresh = signing.checkout("fresh", ini)
    fresh.run(**BRANCH).assert_outcomes(passed=2)
    assert signing.counted() == 6, "a branch does not read main's"
    after = {file: file.read_bytes() for file in files_in(place)}
    assert {file: after[file] for file in files} == files
    if style == "tiers":
        assert not {f for f in after.keys() - files.keys() if f.is_relative_to(root / "main")}


def test_a_branch_without_a_name_is_a_usage_error(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """Where nothing tells the branch nothing is written to a shared name by chance."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    checkout = signing.checkout("a", settings_for("namespaces", place.url))
    run = checkout.run()
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "{branch} has no value here" in run.stderr.str()
