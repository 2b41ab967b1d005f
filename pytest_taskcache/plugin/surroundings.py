"""What surrounds every test of a run and belongs in its key: options, ini settings, plugins.

Neutral is what changes how a run is shown, limited or reported, not what a test does: nothing is
run again for it. There are lists of such options, and two ways to add to them.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pytest_taskcache.checksum import checksum
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.errors import UndigestableError
from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.model.key import Part
from pytest_taskcache.originals import os_path
from pytest_taskcache.plugin.pytest_private import written_ini
from pytest_taskcache.ports import Fingerprints

_NEUTRAL_OPTIONS = frozenset(
    {
        # which tests run, and in which order, not what they do
        "file_or_dir", "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf",
        "last_failed_no_failures", "failedfirst", "newfirst", "stepwise", "stepwise_skip",
        "stepwise_reset", "collectonly", "maxfail", "pyargs", "keepduplicates",
        "collect_in_virtualenv", "continue_on_collection_errors", "randomly_seed",
        "randomly_reorganize", "randomly_reset_seed", "numprocesses", "maxprocesses", "dist",
        "distload", "tx", "px", "looponfail", "rsyncdir", "rsyncignore", "maxworkerrestart",
        "testrunuid", "loadscopereorder", "loadgroup", "doctestmodules", "doctestglob",
        "doctestreport", "distribution", "boxed", "exitfirst", "onlyrerun", "rerun_except",
        "reruns", "reruns_delay", "fail_on_flaky", "reruns_mode", "rerun_show_tracebacks",
        # how results are shown or written
        "verbose", "quiet", "no_header", "no_summary", "fold_skipped", "no_fold_skipped",
        "force_short_summary", "reportchars", "disable_warnings", "showlocals", "tbstyle",
        "xfail_tb", "showcapture", "fulltrace", "color", "code_highlight", "durations",
        "durations_min", "xmlpath", "junitprefix", "pastebin", "htmlpath", "self_contained_html",
        "css", "tracestyle", "metadata", "metadata_from_json", "metadata_from_json_file",
        "cacheclear", "setuponly", "setupshow", "setupplan", "debug", "traceconfig",
        # where things are
        "basetemp", "rootdir", "inifilename", "confcutdir", "cov_source", "cov_report",
        "cov_config", "cov_append", "cov_branch", "cov_fail_under", "no_cov", "cov_context",
        "cov_precision", "no_cov_should_warn", "cov_reset", "cov_no_collect", "usepdb",
        "usepdb_cls", "trace", "plugins", "override_ini", "strict_config", "benchmark_storage",
    }
)  # fmt: skip
"""Options, by ``dest``, that do not change what a test does. All others are part of every
outcome's key."""

_NEUTRAL_INI = frozenset(
    {
        "addopts", "cache_dir", "testpaths", "norecursedirs", "markers", "junit_suite_name",
        "junit_logging", "junit_log_passing_tests", "junit_duration_report", "junit_family",
        "console_output_style", "required_plugins", "minversion", "strict_config",
        "python_classes", "python_functions", "verbosity_test_cases", "verbosity_subtests",
        "verbosity_assertions",
    }
)  # fmt: skip
"""The same of ini settings (``addopts`` acts through the options)."""

_NEUTRAL_EITHER = frozenset(
    {
        # pytest 9.2
        "capture", "log_cli", "log_cli_format", "log_cli_date_format", "log_file",
        "log_file_mode", "log_file_format", "log_file_date_format",
        "truncation_limit_lines", "truncation_limit_chars", "faulthandler_timeout",
        "faulthandler_exit_on_timeout",
        # pytest-timeout 2.4
        "timeout", "timeout_method", "timeout_func_only", "session_timeout",
        "timeout_disable_debugger_detection",
        # pytest-json-report 1.5
        "json_report", "json_report_file", "json_report_omit", "json_report_summary",
        "json_report_indent", "json_report_verbosity",
        # pytest-split 0.10
        "splits", "group", "store_durations", "durations_path", "clean_durations",
        "splitting_algorithm",
        # pytest-retry 1.7
        "retries", "retry_delay", "cumulative_timing", "retry_outcome",
        # teamcity-messages 1.33
        "teamcity", "no_teamcity", "skippassedoutput", "swapdiff",
        # pytest-reportlog 0.4, pytest-sugar 1.1, pytest-instafail, pytest-picked, pytest-clarity,
        # pytest-progress, pytest-github-actions-annotate-failures, pytest-testdox,
        # pytest-custom-exit-code, pytest-reverse, pytest-random-order (each run has a seed)
        "report_log", "report_log_exclude_logs_on_passed_tests", "force_sugar", "old_summary",
        "sugar_verbose", "instafail", "picked", "picked_mode", "parent_branch", "diff_width",
        "diff_type", "diff_symbols", "progress", "show_progress", "exclude_warning_annotations",
        "testdox", "force_testdox", "suppress_no_test_exit_code", "suppress_tests_failed_exit_code",
        "random_order_enabled", "random_order_bucket", "random_order_seed", "reverse",
    }
)  # fmt: skip
"""Names that are neutral as either."""

_NEUTRAL_PLUGINS = frozenset(
    {
        "pytest-xdist", "pytest-html", "pytest-metadata", "pytest-randomly", "pytest-cov",
        "pytest-rerunfailures", "pytest-retry", "pytest-json-report", "pytest-sugar",
        "pytest-instafail", "pytest-random-order", "pytest-reverse", "pytest-split",
        "pytest-picked", "pytest-testdox", "pytest-pretty", "pytest-md-report", "pytest-tap",
        "pytest-custom-exit-code", "pytest-taskcache",
        # as -p no:NAME has them
        "cacheprovider", "terminal", "terminalreporter", "randomly", "xdist", "junitxml",
        "pastebin", "html", "metadata", "pytest_cov", "cov", "rerunfailures", "stepwise",
        "helpconfig", "setupplan", "setuponly", "xdist.looponfail",
    }
)  # fmt: skip
"""Distributions of plugins, and plugins, that select, order, distribute, repeat, measure or show
tests. What they seed is followed otherwise (the seed, where a test drew from it)."""


def _neutral_names(config: pytest.Config) -> frozenset[str]:
    """What is neutral in this run, be it an option or a setting: those of the list, what plugins
    answer, and the project's own, separated by blanks or commas."""
    hooks: Any = config.hook
    answers: list[Iterable[str]] = hooks.pytest_taskcache_neutral_options(config=config)
    own = str(config.getini("taskcache_neutral_options") or "").replace(",", " ").split()
    return _NEUTRAL_EITHER.union(own, *answers)


def option_parts(config: pytest.Config, read: Collection[str], world: Fingerprints) -> list[Part]:
    """One part for each option of `given_options`; and one, by content, for each file that one
    names and that was ``read`` before the tests: by a plugin, which tells tests what is in it."""
    given = given_options(config)
    texts = chain.from_iterable(one if isinstance(one, list) else [one] for one in given.values())
    paths = {os_path.abspath(text) for text in texts if isinstance(text, str)}
    names = [world.name_of(path) for path in sorted(paths.intersection(read))]
    parts = [Part(name, _digest_of(value)) for name, value in given.items()]
    return parts + [Part(f"file {name}", world.digest(Kind.FILE, name)) for name in names]


def given_options(config: pytest.Config) -> dict[str, object]:
    """Each option and ini setting that is given, but for the neutral ones. An option that a plugin
    has but nobody gave changes nothing."""
    settings = {n: str(getattr(raw, "value", raw)) for n, raw in written_ini(config).items()}
    for text in getattr(config.option, "override_ini", None) or ():
        name, _, settings[name] = text.partition("=")
    kinds = (("option", vars(config.option), _NEUTRAL_OPTIONS), ("ini", settings, _NEUTRAL_INI))
    neutral = _neutral_names(config)
    found: dict[str, object] = {
        f"{kind} {name}": value
        for kind, named, besides in kinds
        for name, value in named.items()
        if name not in neutral and name not in besides and not name.startswith("taskcache_")
    }
    for name in config.known_args_namespace.plugins:
        kind, _, plugin = name.partition(":")
        if kind == "no" and plugin not in _NEUTRAL_PLUGINS:
            found[f"option -p {name}"] = True
    return {n: value for n, value in sorted(found.items()) if value not in (None, False, [], ())}


def _digest_of(value: object) -> str:
    """An option's digest; one that has none counts by its type."""
    try:
        return digest_value(value)
    except UndigestableError:
        return type(value).__qualname__


def plugin_distributions(config: pytest.Config) -> set[tuple[str, str]]:
    """The distributions that plugins come from, by normalised name and version. The names of
    their directories tell, which saves parsing the metadata of each."""
    found: set[tuple[str, str]] = set()
    for _, distribution in config.pluginmanager.list_plugin_distinfo():
        path = Path(getattr(distribution, "_path", ""))
        name, _, version = path.stem.partition("-")
        if not version or path.suffix != ".dist-info":
            name, version = distribution.project_name, str(distribution.version)
        found.add((name.lower().replace("_", "-"), version))
    return found


def plugin_parts(config: pytest.Config, world: Fingerprints) -> tuple[Part, ...]:
    """One part for each distribution that plugins come from, by version, and for each plugin
    module that comes from none, by content. The project's count otherwise, by their sources."""
    manager = config.pluginmanager
    found = {
        f"plugin {name}": version
        for name, version in plugin_distributions(config)
        if name not in _NEUTRAL_PLUGINS
    }
    known = [plugin for plugin, _ in manager.list_plugin_distinfo()]
    for plugin in manager.get_plugins():
        if isinstance(plugin, types.ModuleType) and plugin not in known:
            file = getattr(plugin, "__file__", None)
            ours = plugin.__name__.partition(".")[0] in ("_pytest", "pytest_taskcache")
            if file and not ours and not world.is_project_file(file):
                found[f"plugin {plugin.__name__}"] = world.digest(Kind.FILE, world.name_of(file))
    return tuple(Part(name, digest) for name, digest in sorted(found.items()))


def setting_digest(config: pytest.Config, name: str) -> str:
    """A digest of one option's present value, "" where there is no such option."""
    value = getattr(config.option, name, None)
    return "" if value is None else checksum([repr(value)])
