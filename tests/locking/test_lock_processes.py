"""Real processes that race for locks, crash while they hold them, and fork."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from contenders import Contender, eventually, holder

from pytest_taskcache.locking.by_name import lock_manager_for
from pytest_taskcache.ports import Holder, Lease

Contend = Callable[..., Contender]


def test_eight_processes_are_never_inside_together(
    spec: str, key: str, contend: Contend, tmp_path: Path
) -> None:
    """Eight processes take the same lock in turn: none meets another inside, no turn is lost."""
    (tmp_path / "counter").write_text("0")
    spec = spec.partition("?")[0]  # a busy machine may starve a process longer than a short lease
    racers = [contend(spec, "race", key, "10", str(tmp_path)) for _ in range(8)]
    assert [racer.hear() for racer in racers] == [{"overlaps": 0}] * 8
    assert (tmp_path / "counter").read_text() == "80"


def test_a_killed_holder_frees_its_locks(spec: str, key: str, contend: Contend) -> None:
    """``kill -9`` of a process gives all its keys to others, with greater tokens."""
    keys = [f"{key}-{number}" for number in range(5)]
    crashed = contend(spec, "hold", *keys)
    said = crashed.hear()
    manager = lock_manager_for(spec)
    told = manager.acquire(keys[0], holder())
    assert isinstance(told, Holder)
    assert told.run == said["run"]
    crashed.kill()
    leases = [eventually(manager, each) for each in keys]
    assert all(new.token > old for new, old in zip(leases, said["tokens"], strict=True))
    assert all(manager.confirm(lease) for lease in leases)
    manager.close()


def test_one_of_many_takes_over_each_key_of_a_dead_holder(
    spec: str, key: str, contend: Contend
) -> None:
    """Several processes find the same forty keys of a crashed one: each key has one heir."""
    crashed = contend(spec, "hold", *(f"{key}-{number}" for number in range(40)))
    said = crashed.hear()
    old = dict(zip((f"{key}-{number}" for number in range(40)), said["tokens"], strict=True))
    heirs = [contend(spec, "grab", "40", key, said["run"]) for _ in range(5)]
    crashed.kill()
    shares = [heir.hear()["mine"] for heir in heirs]
    taken = [name for share in shares for name in share]
    assert sorted(taken) == sorted(old)
    assert all(token > old[name] for share in shares for name, token in share.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_owns_nothing(spec: str, key: str, contend: Contend) -> None:
    """A child neither confirms nor releases its parent's lease, takes locks of its own, and does
    not keep the parent's locks alive when the parent dies."""
    parent = contend(spec, "fork", key)
    child = parent.hear()
    try:
        assert child["inherited"] is False
        assert child["told"] == child["parent"]
        assert child["own"] is True
        assert parent.ask("confirm") == {"confirmed": [True]}
        parent.kill()
        manager = lock_manager_for(spec)
        manager.release(eventually(manager, key))
        assert isinstance(manager.acquire(key + "-of-the-child", holder()), Holder)
        manager.close()
    finally:
        os.kill(child["child"], signal.SIGKILL)


def test_a_stopped_holder_is_fenced_out_where_locks_are_leases(
    redis_spec: str, key: str, contend: Contend
) -> None:
    """A holder that stands still longer than its lease finds it gone: its confirm is False, and
    its release does not free the new holder's lock."""
    stopped = contend(redis_spec, "hold", key)
    old = stopped.hear()["tokens"][0]
    stopped.signal(signal.SIGSTOP)
    manager = lock_manager_for(redis_spec)
    lease = eventually(manager, key)
    stopped.signal(signal.SIGCONT)
    assert stopped.ask("confirm") == {"confirmed": [False]}
    assert stopped.ask("release") == {"released": True}
    assert manager.confirm(lease)
    assert lease.token > old
    manager.close()


def test_a_stopped_holder_keeps_file_locks(tmp_path: Path, key: str, contend: Contend) -> None:
    """A stopped process still lives: its file locks stay, and are good when it goes on."""
    stopped = contend(str(tmp_path / "locks"), "hold", key)
    stopped.hear()
    stopped.signal(signal.SIGSTOP)
    manager = lock_manager_for(tmp_path / "locks")
    assert isinstance(manager.acquire(key, holder()), Holder)
    stopped.signal(signal.SIGCONT)
    assert stopped.ask("confirm") == {"confirmed": [True]}
    stopped.ask("release")
    assert isinstance(manager.acquire(key, holder()), Lease)
    manager.close()
