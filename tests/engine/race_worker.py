"""One of several processes that race for the same keys; run by test_races_between_processes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pytest_taskcache import DEFAULT, Cache, cached
from pytest_taskcache.model.event import Computed, Event, Faulted

ROUNDS = 100


@cached(policy=DEFAULT.configure(isolation_level="SERIALIZABLE", lock_manager="file"))
def value(number: int) -> dict[str, object]:
    print(number)
    return {"number": number, "filling": str(number) * 3000}


class Complaints:
    """An observer that says what was not kept, and why."""

    def notify(self, event: Event) -> None:
        if isinstance(event, Faulted) or (isinstance(event, Computed) and not event.staged):
            print(event, file=sys.stderr)


def main(cache: str, ready: str) -> None:
    with Cache(cache, root=Path(__file__).parent, observers=[Complaints()]):
        Path(ready).touch()
        while not Path(cache, "..", "go").exists():
            time.sleep(0.005)
        for number in range(ROUNDS):
            assert value(number) == {"number": number, "filling": str(number) * 3000}, "torn"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
