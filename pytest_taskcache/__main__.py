"""``python -m pytest_taskcache``: the ``taskcache`` command."""

import sys

from pytest_taskcache.cli import main

if __name__ == "__main__":
    sys.exit(main())
