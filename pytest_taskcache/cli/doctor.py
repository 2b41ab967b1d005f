"""What is wrong with a set-up, in plain words, each with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pytest_taskcache.cli.place import Project
from pytest_taskcache.config.settings import SIGNING_KEY
from pytest_taskcache.config.tiers import find_tiers, named_storages
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import ConfigurationError, TaskCacheError
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.report.tally import Tally
from pytest_taskcache.report.wording import counted, size
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.storage.remote.namespaces import expand
from pytest_taskcache.storage.remote.signed import signing_keys

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_LOW = 0.02
"""Share of a disk that is left below which it counts as nearly full."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``problem`` and ``remedy`` are empty where it is fine."""

    what: str
    problem: str = ""
    remedy: str = ""


def examine(project: Project) -> Iterator[Finding]:
    """Looks at the installation, the settings, the cache, and what speaks against caching."""
    yield Finding(f"Python {sys.version.split()[0]}, project root {project.root}")
    yield from _plugin()
    yield from _settings(project)
    yield from _disk(project)
    if project.exists:
        yield from _cache(project)


def _plugin() -> Iterator[Finding]:
    names = {point.name for point in metadata.entry_points(group="pytest11")}
    if "taskcache" not in names:
        yield Finding(
            "the plugin",
            "is not installed in this environment, so pytest does not load it",
            f"{sys.executable} -m pip install pytest-taskcache",
        )
    else:
        yield Finding("the plugin is installed, and pytest loads it")
    if "no:taskcache" in os.environ.get("PYTEST_ADDOPTS", ""):
        yield Finding("PYTEST_ADDOPTS", "switches the plugin off", "take -p no:taskcache out")
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        yield Finding(
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
            "is set, so pytest loads no plugin by itself",
            "add -p pytest_taskcache.plugin, or unset it",
        )


def _settings(project: Project) -> Iterator[Finding]:
    settings = project.settings
    if settings.mode is Mode.OFF:
        yield Finding("mode", "the cache is switched off", "take taskcache_mode = off out")
    sound, shared = True, False
    for spec in {settings.storage, settings.key_storage, settings.result_storage}:
        try:
            for tier in find_tiers(spec, named_storages(project.root)):
                if tier.remote:
                    shared = True
                    url = expand(tier.spec, environ=os.environ, root=project.root, url=True)
                    storage_by_url(url, tier.setting).close()
        except ConfigurationError as error:
            sound = False
            yield Finding(f"{error.setting}:", error.problem, error.remedy)
    try:
        unsigned = shared and not (signing_keys(os.environ) or settings.trust_remote)
    except TaskCacheError as error:
        yield Finding(SIGNING_KEY, str(error), "use a random key of 32 bytes")
        return
    if unsigned:
        yield Finding(
            SIGNING_KEY,
            "is not set: what is written to the shared storage is believed by nobody",
            "set the same secret on all machines",
        )
    elif sound:
        yield Finding("the settings are sound")


def _disk(project: Project) -> Iterator[Finding]:
    if not project.exists:
        yield Finding(
            f"the cache at {project.directory}",
            "does not exist yet",
            "run pytest on something cached: @cached, @cached_fixture or @pytest.mark.cached",
        )
        return
    kind = _file_system(project.directory)
    if kind in _NETWORK:
        yield Finding(
            f"the cache at {project.directory}",
            f"lies on a network file system ({kind}), where SQLite's locks are not to be trusted",
            "set cache_dir to a local disk, and taskcache_storage to share",
        )
    usage = shutil.disk_usage(project.directory)
    if usage.free < usage.total * _LOW:
        yield Finding("the disk", f"has {size(usage.free)} left", "make room, or taskcache prune")


def _cache(project: Project) -> Iterator[Finding]:
    try:
        held, runs = project.local.size(), project.history.runs()
    except TaskCacheError as error:
        yield Finding(f"the cache at {project.directory}", str(error), _remedy(error))
        return
    limit = project.settings.max_size
    yield Finding(f"the cache holds {size(held)} of {size(limit)}")
    if held > limit * 0.9:
        yield Finding(
            "the cache", "is nearly full, so records will be evicted", "raise taskcache_max_size"
        )
    if runs:
        yield from _last_run(runs[0].tally)


def _last_run(tally: Tally) -> Iterator[Finding]:
    for reason, count in tally.faults.most_common():
        yield Finding(
            f"the last run with something to tell had {counted(count, 'fault')}: {reason}",
            tally.details.get(reason, reason),
            "mend what it names; the run itself lost nothing but time",
        )
    refused = sum(tally.refused.values())
    if refused > sum(tally.computed.values()) + sum(tally.reused.values()):
        most = tally.refused.most_common(1)[0][0]
        yield Finding(
            "most computations",
            f"were not kept, most often because: {most}",
            "taskcache explain NAME tells what to write to allow it",
        )
    if hint := tally.hint():
        problem, _, remedy = hint.partition("; ")
        yield Finding("the cache costs more than it saves", problem, remedy)


def _file_system(path: Path) -> str:
    """The type of the file system that a path lies on; "" where that cannot be told."""
    best, kind = "", ""
    try:
        for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
            _, mount, found = line.split()[:3]
            inside = str(path).startswith(mount.rstrip("/") + "/") or str(path) == mount
            if inside and len(mount) >= len(best):
                best, kind = mount, found
    except (OSError, ValueError):
        return ""
    return kind


def _remedy(error: TaskCacheError) -> str:
    if "newer" in str(error):
        return "upgrade pytest-taskcache here, or name another directory with cache_dir"
    return f"remove the directory: {error}" if "corrupt" in str(error) else "see above"
