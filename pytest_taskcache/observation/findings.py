"""Dependencies from sightings: files, environment, imports and distributions."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable

from pytest_taskcache.model.dependency import ABSENT, Kind
from pytest_taskcache.observation import environ
from pytest_taskcache.observation.imports import source_of
from pytest_taskcache.observation.scratch import Scratch
from pytest_taskcache.observation.sightings import Sightings, is_newer, plain_stat
from pytest_taskcache.observation.sources import Sources
from pytest_taskcache.observation.starting_environment import EVERYTHING, at_start, same
from pytest_taskcache.observation.verification import Verification

Digests = dict[tuple[Kind, str], str]
Doubts = dict[str, None]

_VOLATILE = frozenset({"COLUMNS", "LINES", "TERM", "SHLVL", "PWD", "OLDPWD", "_", EVERYTHING})
"""Variables that third-party modules may read when imported without anyone depending on it."""

_RUN = "<tmp>"


def changed(name: str) -> str:
    """The reason not to trust a trace in which this is named."""
    return f"{name} changed while the computation ran"


class Findings:
    """Digests what was seen, and says what cannot be trusted."""

    def __init__(
        self,
        name_of: Callable[[str], str],
        sources: Sources,
        scratch: Scratch,
        verification: Verification,
    ) -> None:
        self._name_of = name_of
        self._sources = sources
        self._scratch = scratch
        self._verification = verification

    def of_window(
        self, sightings: Sightings, is_derived: Callable[[Kind, str], bool]
    ) -> tuple[Digests, Doubts]:
        """What a window read, but what an inherited computation made for it."""
        digests: Digests = {}
        doubts: Doubts = {}
        self._add_paths(sightings, digests, doubts, is_derived)
        for variable in list(sightings.variables):
            if variable == EVERYTHING or not is_derived(Kind.ENVIRONMENT, variable):
                self._add_variable(sightings, variable, digests, doubts)
        for name in [*sightings.tried, *sightings.asked]:
            if self._was_put_there(sightings, name):
                digests[Kind.IMPORT, name] = ABSENT  # as it is before the computation runs
            elif not self._is_third_party(name):
                digests[Kind.IMPORT, name] = self._verification.digest(Kind.IMPORT, name)
        self._add_distributions(sightings, digests)
        return digests, doubts

    def of_import(self, sightings: Sightings, ambient: bool) -> tuple[Digests, Doubts]:
        """What an import read. Of third-party modules (``ambient``) neither names that were
        tried nor distributions count: a distribution counts as a whole."""
        digests: Digests = {}
        doubts: Doubts = {}
        self._add_paths(
            sightings, digests, doubts, lambda kind, path: self._scratch.is_derived(path, set())
        )
        for variable, value in list(sightings.variables.items()):
            if not ambient or not (variable in _VOLATILE or variable.startswith("PYTEST_")):
                self._add_early_variable(sightings, variable, value, digests)
        if not ambient:
            # What was found is a matter of the modules' own import statements.
            for name in list(sightings.tried):
                if name not in sys.modules:
                    digests[Kind.IMPORT, name] = self._verification.digest(Kind.IMPORT, name)
            for name in list(sightings.asked):
                if not self._is_third_party(name):
                    digests[Kind.IMPORT, name] = self._verification.digest(Kind.IMPORT, name)
            self._add_distributions(sightings, digests)
        return digests, doubts

    def _add_paths(
        self,
        sightings: Sightings,
        digests: Digests,
        doubts: Doubts,
        is_derived: Callable[[Kind, str], bool],
    ) -> None:
        for kind, path in list(sightings.reads):
            if is_derived(kind, path):
                continue
            name = self._name_of(path)
            early = sightings.early.get((kind, path))
            if early is not None:
                digests[kind, name] = early
                continue
            if name == _RUN:
                continue  # the run's own directory: there as soon as anyone asks for one
            digests[kind, name] = self._verification.digest(kind, name, path)
            if not sightings.changed_here(path) and changed_since(kind, path, sightings.opened):
                doubts[changed(name)] = None

    def _add_variable(
        self, sightings: Sightings, variable: str, digests: Digests, doubts: Doubts
    ) -> None:
        early = sightings.early.get((Kind.ENVIRONMENT, variable))
        name = variable
        if variable == EVERYTHING and sightings.late:
            # Read after the computation changed some of it: what was there before counts.
            name = at_start(variable)
            early = None
            if not same(sightings.environment or {}, self._verification.start.values):
                doubts["the environment was read as a whole after a part of it was set"] = None
        digests[Kind.ENVIRONMENT, name] = (
            self._verification.digest(Kind.ENVIRONMENT, name) if early is None else early
        )

    def _add_early_variable(
        self, sightings: Sightings, variable: str, value: bytes | None, digests: Digests
    ) -> None:
        """What an import read counts with the value of that moment."""
        name = variable
        early: str | None = None
        if variable == EVERYTHING:
            name = at_start(variable)
        elif environ.present(variable) != value:
            if self._verification.start.values.get(os.fsencode(variable)) == value:
                name = at_start(variable)
            else:
                early = sightings.early.get((Kind.ENVIRONMENT, variable))
        digests[Kind.ENVIRONMENT, name] = (
            self._verification.digest(Kind.ENVIRONMENT, name) if early is None else early
        )

    def _add_distributions(self, sightings: Sightings, digests: Digests) -> None:
        for distribution in list(sightings.distributions):
            kind = Kind.DISTRIBUTIONS if distribution == EVERYTHING else Kind.DISTRIBUTION
            name = re.sub(r"[-_.]+", "-", distribution).lower()
            digests[kind, name] = self._verification.digest(kind, name)

    def _was_put_there(self, sightings: Sightings, name: str) -> bool:
        """Whether a temporary module is what this computation itself wrote and then imported."""
        filename = source_of(sys.modules.get(name))
        return filename is not None and self._scratch.holds(filename) and sightings.covers(filename)

    def _is_third_party(self, name: str) -> bool:
        """Whether a module is loaded and not the project's: it counts by its distribution."""
        module = sys.modules.get(name)
        if module is None:
            return False
        filename = source_of(module)
        return filename is None or self._sources.find(filename) is None


def changed_since(kind: Kind, path: str, moment: int) -> bool:
    """Whether something else changed what was read. A directory's own times tell of its
    entries, which matter to a listing only; ``__pycache__`` is no entry of interest."""
    if not is_newer(path, moment):
        return False
    if kind is Kind.STAT:
        try:
            return not stat.S_ISDIR(plain_stat(path).st_mode)
        except OSError:
            return True
    if kind is Kind.LISTING:
        return not is_newer(os.path.join(path, "__pycache__"), moment)
    return True
