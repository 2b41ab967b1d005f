"""The recipes of docs/shared-storage.md parse, compose, and are run where that is possible."""

from __future__ import annotations

import configparser
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from team import SUITE, Place, Team, line_of

from pytest_taskcache.config.settings import NAMES, Settings, Sources, read_settings
from pytest_taskcache.config.storage_factory import StorageFactory
from pytest_taskcache.locking.by_name import lock_manager_for
from pytest_taskcache.storage.local import LocalStorage

PAGE = Path(__file__).parents[2] / "docs" / "shared-storage.md"
CI = {"GITHUB_REF_NAME": "topic", "PYTEST_TASKCACHE_SIGNING_KEY": "0123456789abcdef0123456789"}


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def from_ini(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    found = dict(parser["pytest"])
    assert all(name.startswith("taskcache_") for name in found)
    return {name.removeprefix("taskcache_"): value for name, value in found.items()}


def from_yaml(text: str) -> dict[str, str]:
    found = dict(re.findall(r"PYTEST_TASKCACHE_(\w+): *(.+)", text))
    return {name.lower(): value for name, value in found.items() if "SIGNING_KEY" not in name}


RECIPES = [*map(from_ini, blocks("ini")), *filter(None, map(from_yaml, blocks("yaml")))]


def factory_in(root: Path, settings: Settings) -> StorageFactory:
    local = LocalStorage(root / "local")
    return StorageFactory(local, root, settings, CI, lambda reason, detail: pytest.fail(detail))


def test_the_page_has_recipes() -> None:
    """Else the tests below would pass on an empty page."""
    assert len(RECIPES) >= 7
    assert {name for recipe in RECIPES for name in recipe} <= set(NAMES)


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_settings_parse_and_compose(recipe: dict[str, str], tmp_path: Path) -> None:
    """Every setting of every recipe is known and right, and its storages can be made."""
    settings: Settings = read_settings(Sources(ini=recipe))
    factory = factory_in(tmp_path, settings)
    records, results = factory.route("", "")
    assert "then" in records.describe()
    assert records.trusted
    assert results is records
    factory.close()
    if settings.lock_manager:
        lock_manager_for(settings.lock_manager).close()


def test_names_of_the_page_compose(tmp_path: Path) -> None:
    """The storages of ``[tool.taskcache.storages]`` can be used by name."""
    toml = next(block for block in blocks("toml") if "tool.taskcache.storages" in block)
    (tmp_path / "pyproject.toml").write_text(toml)
    factory = factory_in(tmp_path, Settings())
    assert "s3://team-cache/project" in factory.route("team", "team")[0].describe()
    assert factory.route("laptop", "laptop")[0].describe().endswith("(read-only)")
    factory.close()


@pytest.mark.parametrize("recipe", range(len(blocks("ini"))))
def test_recipes_run(recipe: int, signing: Team, place_of: Callable[[str], Place]) -> None:
    """With servers of our own in place of the team's, each recipe's second machine computes
    nothing; where laptops only read, CI's write is what they find."""
    ini = from_ini(blocks("ini")[recipe])
    stand_ins = {
        "s3://team-cache": ("s3", ""),
        "file:///mnt/team/taskcache": ("file", ""),
        "redis://cache.internal:6379": ("redis", "/0"),
        "postgresql+psycopg://cache@db.internal/taskcache": ("postgres", ""),
    }
    for theirs, (kind, cut) in stand_ins.items():
        if any(theirs in value for value in ini.values()):
            place = place_of(kind)
            signing.environ |= place.environ
            ours = place.url.removesuffix(cut)
            ini = {name: value.replace(theirs, ours) for name, value in ini.items()}
    signing.files["test_suite.py"] = SUITE
    storage = ini.get("storage", "")
    ci = {"PYTEST_TASKCACHE_STORAGE": re.sub(r"local:rw,(.*):r$", r"\1", storage)}
    if not storage:
        ci = {}
    workers = ["-n2"] if storage.startswith("redis") else []
    signing.checkout("ci", ini).run(*workers, **ci).assert_outcomes(passed=2)
    other = signing.checkout("laptop", ini).run()
    other.assert_outcomes(passed=2)
    assert signing.counted() == 3, other.shown
    assert "fault" not in line_of(other)


def test_the_cache_action(team: Team) -> None:
    """A local cache that was packed on one machine and unpacked in another checkout has hits,
    without a key: it is the job's own directory."""
    team.files["test_suite.py"] = SUITE
    first, second = team.checkout("runner-1"), team.checkout("work/runner-2")
    first.run().assert_outcomes(passed=2)
    assert "path: .pytest_cache/taskcache" in PAGE.read_text("utf-8")
    archive = team.directory / "cache.tar"
    cached = ".pytest_cache/taskcache"
    subprocess.run(["tar", "-cf", archive, cached], cwd=first.path, check=True)
    subprocess.run(["tar", "-xf", archive], cwd=second.path, check=True)

    second.run().assert_outcomes(passed=2)
    assert team.counted() == 3
