"""Options and ini settings that change how a run is shown, limited or reported, not what a test
does: nothing is run again for them. A list per plugin, and two ways to add to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

HOOK = "pytest_taskcache_neutral_options"
"""A plugin's ``@pytest.hookimpl(optionalhook=True) def pytest_taskcache_neutral_options(config)``
returns the names of its own: where they are stored (``dest``), or of ini settings."""

INI = "taskcache_neutral_options"
"""A project's own list, separated by blanks or commas."""

BY_PLUGIN: Mapping[str, frozenset[str]] = {
    "pytest": frozenset(
        {
            "capture", "log_cli", "log_cli_level", "log_cli_format", "log_cli_date_format",
            "log_file", "log_file_mode", "log_file_level", "log_file_format",
            "log_file_date_format", "truncation_limit_lines", "truncation_limit_chars",
            "faulthandler_timeout", "faulthandler_exit_on_timeout",
        }
    ),
    "pytest-timeout": frozenset(
        {
            "timeout", "timeout_method", "timeout_func_only", "session_timeout",
            "timeout_disable_debugger_detection",
        }
    ),
    "pytest-json-report": frozenset(
        {
            "json_report", "json_report_file", "json_report_omit", "json_report_summary",
            "json_report_indent", "json_report_verbosity",
        }
    ),
    "pytest-reportlog": frozenset({"report_log", "report_log_exclude_logs_on_passed_tests"}),
    "pytest-split": frozenset(
        {
            "splits", "group", "store_durations", "durations_path", "clean_durations",
            "splitting_algorithm",
        }
    ),
    "pytest-retry": frozenset({"retries", "retry_delay", "cumulative_timing", "retry_outcome"}),
    "pytest-sugar": frozenset({"force_sugar", "old_summary", "sugar_verbose"}),
    "pytest-instafail": frozenset({"instafail"}),
    "pytest-picked": frozenset({"picked", "picked_mode", "parent_branch"}),
    "pytest-clarity": frozenset({"diff_width", "diff_type", "diff_symbols"}),
    "pytest-progress": frozenset({"progress", "show_progress"}),
    "pytest-github-actions-annotate-failures": frozenset({"exclude_warning_annotations"}),
    "teamcity-messages": frozenset({"teamcity", "no_teamcity", "skippassedoutput", "swapdiff"}),
}  # fmt: skip
"""By distribution, as of pytest 9.2, pytest-timeout 2.4, pytest-json-report 1.5,
pytest-reportlog 0.4, pytest-retry 1.7, pytest-split 0.10,
pytest-sugar 1.1, teamcity-messages 1.33."""

_KNOWN = frozenset[str]().union(*BY_PLUGIN.values())


def neutral_names(config: pytest.Config) -> frozenset[str]:
    """All names that are neutral in this run: the lists, the plugins' own and the project's."""
    caller = getattr(config.hook, HOOK, None)
    answers: Iterable[Iterable[str]] = caller(config=config) if caller is not None else ()
    own = str(config.getini(INI) or "").replace(",", " ").split()
    return _KNOWN.union(own, *answers)
