"""Several workers, one run: its identity goes down to them, their counts come up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.report.tally import Tally

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session
    from pytest_taskcache.transactions.staging import Run

_FIELD = "taskcache"
_MATCHED = "taskcache-matched"
_RUN = pytest.StashKey["Run"]()


def run_of(config: pytest.Config) -> Run:
    """The run this process belongs to: the controller's, or one of its own."""
    from pytest_taskcache.transactions.staging import Run

    given = getattr(config, "workerinput", {}).get(_FIELD)
    if given is not None:
        return Run(given["run"], given["started"])
    if _RUN not in config.stash:
        from pytest_taskcache.config.factory import new_run

        config.stash[_RUN] = new_run()
    return config.stash[_RUN]


class XdistHooks:
    """Registered only where pytest-xdist is."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Before a worker starts: tells it the run, which the controller keeps alive."""
        run = self._session.run()
        engine = self._session.engine
        if engine is not None:
            try:
                engine.staging.hold()
            except StorageError as fault:
                self._session.notify(
                    Faulted(f"{fault.operation} failed: {fault.reason}", str(fault))
                )
            node.workerinput[_FIELD] = {"run": run.id, "started": run.started}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """After a worker ended: adds its counts; if it died, frees what it had staged."""
        output = getattr(node, "workeroutput", {})
        if _FIELD in output:
            self._session.tally.merge(Tally.from_plain(output[_FIELD]))
            self._session.settings.refresh.matched.update(output[_MATCHED])
            return
        engine = self._session.engine
        if engine is None:
            return
        self._session.notify(Faulted("a worker died", "its counts are missing"))
        try:
            engine.staging.abandon(node.gateway.id, publish=engine.recorder.publish)
        except StorageError as fault:
            self._session.notify(Faulted(f"{fault.operation} failed: {fault.reason}", str(fault)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker: hands its counts up."""
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            self._session.finish()
            output[_FIELD] = self._session.tally.to_plain()
            output[_MATCHED] = sorted(self._session.settings.refresh.matched)
