"""``--cache-verify``: a share of the hits is run anyway, and must end as recorded; a share of the
values of functions and fixtures is computed anyway, and must be the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_taskcache.model.event import Subject, Verified
from pytest_taskcache.model.key import Identity
from pytest_taskcache.plugin.running import Attempt, Running

if TYPE_CHECKING:
    from pytest_taskcache.engine.cache import Engine
    from pytest_taskcache.plugin.session import Session


class Verification:
    """Chooses hits by a seed that is reported, and notes where one differs; the end of the run
    fails it for that."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._percent = session.settings.verify.percent
        self._seed = seed_of(session)

    def watch(self, engine: Engine | None) -> None:
        """Has the values of functions and fixtures compared, too."""
        if engine is not None and self._percent:
            run = engine.run.id  # what it computed itself needs no proof
            engine.verifies = lambda found: run not in found.id and self.picks(found.key)

    def picks(self, key: str) -> bool:
        """Whether the hit of this key is to be run anyway."""
        if not self._percent:
            return False
        digest = hashlib.sha256(f"{self._seed}{key}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 * 100 < self._percent

    def compare(self, running: Running, attempt: Attempt, *, passed: bool) -> None:
        """Notes a run that ended other than its record says."""
        candidate = running.candidate
        if candidate is None or not candidate.expected:
            return
        difference = ""
        if not passed:
            outcomes = ", ".join(
                f"{report.when} {report.outcome}"
                for report in attempt.reports
                if report.outcome != "passed"
            )
            difference = (
                f"{running.nodeid}: recorded as passed, now {outcomes or 'incomplete'} "
                "although nothing it was observed to depend on has changed"
            )
        file, _, name = running.nodeid.partition("::")
        self._session.notify(Verified(Subject.TEST, Identity(file, name), difference))


def seed_of(session: Session) -> str:
    """What the choice of hits hangs on: as given, else the run's id, which all workers share."""
    return session.settings.verify.seed or session.run().id
