"""Several workers, one run: its identity goes down to them, their counts come up."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.plugin.session import XDIST_FIELD, Session
from pytest_taskcache.report.tally import Tally

_MATCHED = "taskcache-matched"


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
            except StorageError as error:
                self._session.failed(error)
            node.workerinput[XDIST_FIELD] = {"run": run.id, "started": run.started}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """After a worker ended: adds its counts; if it died, frees what it had staged."""
        output = getattr(node, "workeroutput", {})
        if XDIST_FIELD in output:
            self._session.tally.merge(Tally.from_plain(output[XDIST_FIELD]))
            self._session.settings.refresh.matched.update(output[_MATCHED])
            return
        engine = self._session.engine
        if engine is None:
            return
        self._session.notify(Faulted("a worker died", "its counts are missing"))
        try:
            engine.staging.abandon(node.gateway.id, publish=engine.recorder.publish)
        except StorageError as fault:
            self._session.failed(fault)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker: hands its counts up."""
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            self._session.finish()
            output[XDIST_FIELD] = self._session.tally.to_plain()
            output[_MATCHED] = sorted(self._session.settings.refresh.matched)
