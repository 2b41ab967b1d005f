"""Each kind of dependency climbs the same ladder: run; cached; change it; not cached; cached."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from ladder import Climb, Expect, Scenario, climb
from scenarios_of_code import CODE
from scenarios_of_files import ENVIRONMENT, FILES
from scenarios_of_opaque_deeds import OPAQUE
from scenarios_of_pytest import PYTEST
from scenarios_that_stay import KEPT

if TYPE_CHECKING:
    from collections import Counter

SCENARIOS = [*CODE, *FILES, *ENVIRONMENT, *PYTEST, *OPAQUE, *KEPT]


class Climbs:
    """The projects with all scenarios that this run asks for; each climbed when first used, by
    the first worker that needs it, while another one climbs the other half of those that have no
    project of their own. (Tests of one xdist group go to any worker with pytest 9.2.)"""

    def __init__(self, scenarios: list[Scenario], directories: pytest.TempPathFactory) -> None:
        self._members: dict[str, list[Scenario]] = {}
        for number, scenario in enumerate(scenarios):
            group = scenario.group or f"half {number % 2}"
            self._members.setdefault(group, []).append(scenario)
        self._directory = directories.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            self._directory = self._directory.parent
        self._climbed: dict[str, Climb] = {}

    def of(self, scenario: Scenario) -> Climb:
        """The climb of the project that a scenario is in."""
        group = next(group for group, members in self._members.items() if scenario in members)
        if group not in self._climbed:
            directory = self._directory / f"ladder {group}".replace(" ", "-")
            climbed = directory / "climbed"
            with FileLock(f"{directory}.lock"):
                if not climbed.exists():
                    directory.mkdir()
                    climbed.write_bytes(pickle.dumps(climb(directory, self._members[group])))
            self._climbed[group] = pickle.loads(climbed.read_bytes())
        return self._climbed[group]


@pytest.fixture(scope="module")
def climbs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Climbs:
    """The climbs of the scenarios that were not deselected."""
    asked = (
        item.callspec.params.get("scenario")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    )
    return Climbs([one for one in asked if isinstance(one, Scenario)], tmp_path_factory)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_ladder(climbs: Climbs, scenario: Scenario) -> None:
    """What is recorded is a hit until what it depends on changes, then a miss that names the
    change, then a hit again; what it does not depend on changes nothing."""
    ladder = climbs.of(scenario)
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
