"""Storage in a directory of the user's own: an SQLite index, and content-addressed files."""

from pytest_taskcache.storage.local.index import Index
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.storage import LocalStorage

__all__ = ["Index", "LocalStorage", "RunLock"]
