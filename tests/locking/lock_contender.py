"""A process that wants locks, for tests that kill, stop and race real processes.

    python lock_contender.py SPEC hold KEY...
    python lock_contender.py SPEC race KEY ROUNDS DIRECTORY
    python lock_contender.py SPEC grab COUNT KEY DEAD
    python lock_contender.py SPEC fork KEY

It says JSON lines. ``hold`` and ``fork`` then obey the words ``confirm``, ``release`` and ``quit``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from pytest_taskcache.errors import LockError
from pytest_taskcache.locking.by_name import lock_manager_for
from pytest_taskcache.ports import Holder, Lease, LockManager


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def me() -> Holder:
    return Holder(f"run-{os.getpid()}", time.time(), f"{os.getpid()}@here", "1", "contender")


def obey(manager: LockManager, leases: list[Lease]) -> None:
    for line in sys.stdin:
        try:
            match line.strip():
                case "confirm":
                    say(confirmed=[manager.confirm(lease) for lease in leases])
                case "release":
                    for lease in leases:
                        manager.release(lease)
                    say(released=True)
                case "quit":
                    return
        except LockError as error:
            say(error=str(error))


def hold(manager: LockManager, *keys: str) -> None:
    answers = [manager.acquire(key, me()) for key in keys]
    leases = [answer for answer in answers if isinstance(answer, Lease)]
    say(run=me().run, tokens=[lease.token for lease in leases])
    obey(manager, leases)


def race(manager: LockManager, key: str, rounds: str, directory: str) -> None:
    counter, flag = Path(directory, "counter"), Path(directory, "inside")
    overlaps = 0
    for _ in range(int(rounds)):
        while not isinstance(lease := manager.acquire(key, me()), Lease):
            time.sleep(0.002)
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            overlaps += 1
        counter.write_text(str(int(counter.read_text()) + 1))
        flag.unlink(missing_ok=True)
        manager.release(lease)
    say(overlaps=overlaps)


def grab(manager: LockManager, count: str, key: str, dead: str) -> None:
    """Takes what it can get of the keys that the dead run held, and keeps it."""
    mine: dict[str, int] = {}
    wanted = [f"{key}-{number}" for number in range(int(count))]
    while wanted:
        still = []
        for each in wanted:
            answer = manager.acquire(each, me())
            if isinstance(answer, Lease):
                mine[each] = answer.token
            elif answer.run in (dead, "unknown"):
                still.append(each)
        wanted = still
    say(mine=mine)
    obey(manager, [])


def fork(manager: LockManager, key: str) -> None:
    """The parent holds the key; the child tries to confirm, release and take it."""
    lease = manager.acquire(key, me())
    assert isinstance(lease, Lease)
    child = os.fork()
    if child:
        obey(manager, [lease])
        return
    inherited = manager.confirm(lease)
    manager.release(lease)
    answer = manager.acquire(key, me())
    own = manager.acquire(key + "-of-the-child", me())
    say(
        child=os.getpid(),
        inherited=inherited,
        told=answer.run if isinstance(answer, Holder) else "granted",
        parent=lease.holder.run,
        own=isinstance(own, Lease),
    )
    time.sleep(60)


if __name__ == "__main__":
    manager = lock_manager_for(sys.argv[1])
    {"hold": hold, "race": race, "grab": grab, "fork": fork}[sys.argv[2]](manager, *sys.argv[3:])
    manager.close()
