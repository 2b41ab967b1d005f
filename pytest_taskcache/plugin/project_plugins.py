"""What the project's own plugins rest on: conftests, and modules that ``-p`` names.

Their hooks ran before any window opened, and their modules need not be imported by the tests that
they act on. So each is made to run once more in a window, in name only: an empty statement in its
file stands for the module, an empty function of a hook's name for the hook. The window then counts
the module with its imports, and the functions that its hooks reach by name.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_taskcache.model.dependency import Kind, Observed
from pytest_taskcache.ports import Fingerprints, Observation

_OWN = Path(__file__).parent


class ProjectPlugins:
    """The project's plugins by path; what acts on the tests of a directory is worked out once."""

    def __init__(
        self, config: pytest.Config, fingerprints: Fingerprints, observation: Observation | None
    ) -> None:
        self._observation = observation
        self._modules: dict[Path, types.ModuleType] = {}
        for plugin in config.pluginmanager.get_plugins():
            file = getattr(plugin, "__file__", None)
            if not file or not file.endswith(".py") or not fingerprints.is_project_file(file):
                continue
            if isinstance(plugin, types.ModuleType) and not Path(file).is_relative_to(_OWN):
                self._modules[Path(file)] = plugin
        self._sources: dict[Path, str] = {
            path: fingerprints.digest(Kind.SOURCE, fingerprints.name_of(path))
            for path in self._modules
        }
        self._observed: dict[Path, Observed] = {}

    def acting_on(self, directory: Path) -> Mapping[Path, str]:
        """The conftests of the directory and those above it, and all other plugins, with the
        digest of the normalised source of each."""
        return {
            path: digest
            for path, digest in self._sources.items()
            if path.name != "conftest.py" or directory.is_relative_to(path.parent)
        }

    def observed(self, directory: Path) -> Observed:
        """What they rest on. Opaque deeds are left out: a conftest that asks git for the version
        would have no test cached."""
        if directory not in self._observed:
            self._observed[directory] = self._observe(self.acting_on(directory))
        return self._observed[directory]

    def _observe(self, paths: Iterable[Path]) -> Observed:
        if self._observation is None:
            return Observed()
        window = self._observation.open_window(None)
        try:
            for path in paths:
                hooks = [name for name in vars(self._modules[path]) if name.startswith("pytest_")]
                run_in_name_only(str(path), hooks)
        finally:
            observed = window.close()
        return replace(observed, opaque=())


def run_in_name_only(file: str, functions: Iterable[str] = ()) -> None:
    """Runs an empty statement in a source file, and empty functions of these names, so that
    whoever watches counts the file, and its functions of these names, as having run."""
    namespace: dict[str, types.FunctionType] = {}
    names = [name for name in functions if name.isidentifier()]
    text = "\n".join(f"def {name}(): pass" for name in names)
    exec(compile(text, file, "exec", dont_inherit=True), namespace)
    for name in names:
        namespace[name]()
