"""Each kind of dependency climbs the same ladder: run; cached; change it; not cached; cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ladder import Expect, Ladder, Scenario
from scenarios_of_code import CODE
from scenarios_of_files import ENVIRONMENT, FILES
from scenarios_of_opaque_deeds import OPAQUE
from scenarios_of_pytest import PYTEST
from scenarios_that_stay import KEPT

if TYPE_CHECKING:
    from collections import Counter

SCENARIOS = [*CODE, *FILES, *ENVIRONMENT, *PYTEST, *OPAQUE, *KEPT]


class Ladders:
    """The projects with all scenarios that this run asks for; each climbed when first used."""

    def __init__(self, scenarios: list[Scenario], directories: pytest.TempPathFactory) -> None:
        self._scenarios = scenarios
        self._directories = directories
        self._climbed: dict[str, Ladder] = {}

    def of(self, group: str) -> Ladder:
        """The ladder of a group."""
        if group not in self._climbed:
            members = [one for one in self._scenarios if one.group == group]
            directory = self._directories.mktemp(f"ladder-{group.replace(' ', '-')}-")
            self._climbed[group] = Ladder(directory, members)
        return self._climbed[group]


@pytest.fixture(scope="module")
def ladders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ladders:
    """The ladders of the scenarios that were not deselected."""
    asked = (
        item.callspec.params.get("scenario")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    )
    return Ladders([one for one in asked if isinstance(one, Scenario)], tmp_path_factory)


def _climbed_once() -> list[object]:
    """The scenarios, those of one group for one worker."""
    return [
        pytest.param(one, marks=pytest.mark.xdist_group(f"ladder {one.group}")) for one in SCENARIOS
    ]


@pytest.mark.parametrize("scenario", _climbed_once(), ids=str)
def test_the_ladder(ladders: Ladders, scenario: Scenario) -> None:
    """What is recorded is a hit until what it depends on changes, then a miss that names the
    change, then a hit again; what it does not depend on changes nothing."""
    ladder = ladders.of(scenario.group)
    labels = set(_own(ladder.first.counts, scenario))
    assert labels, f"nothing ran:\n{ladder.first.output}"
    again = set(_own(ladder.again.counts, scenario))
    changed = set(_own(ladder.changed.counts, scenario))
    settled = set(_own(ladder.settled.counts, scenario))
    if scenario.expect is Expect.REFUSED:
        assert again == changed == settled == labels
        return
    told = _told(ladder.again.output, scenario)
    assert not again, f"not cached though nothing changed: {sorted(again)}\n{told}"
    told = _told(ladder.changed.output, scenario)
    if scenario.expect is Expect.KEPT:
        assert not changed & labels, f"not cached: {sorted(changed)}\n{told}"
        return
    wanted = labels if scenario.stale is None else set(scenario.stale)
    assert wanted <= changed, f"stale: {sorted(wanted - changed)}"
    if scenario.stale is not None:
        more = changed - wanted - set(scenario.free)
        assert not more, f"not cached: {sorted(more)}\n{told}"
    for text in scenario.named:
        expected = text.replace("SELF", scenario.name)
        assert expected in told, f"not named: {expected}\n{told}"
    told = _told(ladder.settled.output, scenario)
    assert not settled, f"not cached again: {sorted(settled)}\n{told}"


def _own(counts: Counter[str], scenario: Scenario) -> list[str]:
    prefix = f"{scenario.name}."
    return [name.removeprefix(prefix) for name in counts if name.startswith(prefix)]


def _told(output: str, scenario: Scenario) -> str:
    """What the terminal said of a package: its tests' lines, and the reasons that name it."""
    blocks: list[str] = []
    for line in output.splitlines():
        if line.startswith("    ") and blocks:
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line)
    return "\n".join(block for block in blocks if f"{scenario.name}/" in block)
