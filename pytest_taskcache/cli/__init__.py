"""The ``taskcache`` command: looks into a cache, explains, cleans, carries. Knows no pytest.

Exit codes: 0 done; 1 something was found (damage, a problem) or nothing was (an unknown name);
2 the command was written wrong; 3 the cache cannot be used; 4 the extra ``cli`` is missing;
130 interrupted. A reader that closes the pipe early, as ``head`` does, ends it with 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

FOUND, MISUSED, UNUSABLE, MISSING_EXTRA, INTERRUPTED = 1, 2, 3, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit code. What goes wrong is told in a sentence on standard error."""
    try:
        import click
        import rich  # noqa: F401 - asked for here, so that the message is one for both
    except ImportError as error:
        print(
            f"taskcache: the command needs {error.name}, which is not installed; "
            "pip install 'pytest-taskcache[cli]'",
            file=sys.stderr,
        )
        return MISSING_EXTRA
    from pytest_taskcache.cli.commands import taskcache
    from pytest_taskcache.errors import ConfigurationError, TaskCacheError
    from pytest_taskcache.report.wording import harmless

    stdout = sys.stdout
    for stream in (stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = taskcache.main(
            None if arguments is None else list(arguments),
            prog_name="taskcache",
            standalone_mode=False,
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("taskcache: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # click makes an exit of it while a command runs, and puts something in place of the stream.
        if isinstance(error, SystemExit) and sys.stdout is stdout:
            raise
        # Python flushes standard output at its end, and would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return 0
    except (TaskCacheError, OSError) as error:
        print(f"taskcache: {harmless(str(error))}", file=sys.stderr)
        return MISUSED if isinstance(error, ConfigurationError) else UNUSABLE
