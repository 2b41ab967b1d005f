"""What a computation touched: windows over code, files, environment and processes."""

from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.observation.switchboard import muted

__all__ = ["Observatory", "muted"]
