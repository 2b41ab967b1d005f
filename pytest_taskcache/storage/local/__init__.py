"""Storage in a directory of the user's own: an SQLite index, and content-addressed files."""

from pytest_taskcache.storage.local.eviction import Pruned
from pytest_taskcache.storage.local.index import Index
from pytest_taskcache.storage.local.runs import RunLock
from pytest_taskcache.storage.local.storage import DEFAULT_MAX_SIZE, LocalStorage, Statistics
from pytest_taskcache.storage.local.variants import IndexShelf, Reason

__all__ = [
    "DEFAULT_MAX_SIZE",
    "Index",
    "IndexShelf",
    "LocalStorage",
    "Pruned",
    "Reason",
    "RunLock",
    "Statistics",
]
