"""What every lock manager must do, as tests to inherit from."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from pytest_taskcache.ports import Holder, Lease, LockManager

MakeManager: TypeAlias = Callable[[], LockManager]
Pair: TypeAlias = tuple[LockManager, LockManager]

KEYS_AT_ONCE = 200
THREADS = 6
ROUNDS = 20

ODD_TEXTS = ("", "a/b", "../../up", "line\nfeed", "nul\0", "schlüssel", "\ud800", "x" * 5000)
"""Keys and labels are any text: names given outright reach the lock manager too."""


def a_holder(name: str, label: str = "") -> Holder:
    """A holder; two with different names differ in run and attempt."""
    return Holder(f"run-{name}", 1_700_000_000.25, f"{os.getpid()}@here", f"attempt-{name}", label)


def granted(answer: Lease | Holder) -> Lease:
    """The lease; fails the test if it was not granted."""
    assert isinstance(answer, Lease), f"not granted, but held by {answer}"
    return answer


def in_threads(work: Callable[[int], None]) -> None:
    """Calls ``work`` with a number of its own in each of several threads at once, and raises here
    what one of them raised. Whoever hangs fails the test after a minute."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


class LockManagerConformance:
    """Subclass it and define the fixture ``make_manager``::

        class TestMyLocks(LockManagerConformance):
            @pytest.fixture
            def make_manager(self, my_server):
                return lambda: MyLockManager(my_server.url)

    ``make_manager`` returns a function that makes managers which exclude each other, as those of
    two processes do (where that cannot be, it returns the same object each time). The suite closes
    them. It tests one process; what happens when a holder dies is yours to test.
    """

    @pytest.fixture
    def make_manager(self) -> MakeManager:
        """To be overridden."""
        raise NotImplementedError("define the fixture make_manager in your subclass")

    @pytest.fixture
    def pair(self, make_manager: MakeManager) -> Iterator[Pair]:
        """Two managers that exclude each other."""
        first, second = make_manager(), make_manager()
        yield first, second
        first.close()
        second.close()

    @pytest.fixture
    def key(self) -> str:
        """A key nobody else uses, also where the tests share a server."""
        return f"conformance-{os.urandom(8).hex()}"

    def test_it_is_a_lock_manager(self, pair: Pair) -> None:
        """It has the methods of the port, and says what it is."""
        assert isinstance(pair[0], LockManager)
        assert pair[0].describe()

    def test_the_second_is_told_who_holds_it(self, pair: Pair, key: str) -> None:
        """Exclusive: the lease names what was asked for, and whoever comes second gets none but
        the holder, field by field."""
        first, second = pair
        holder = a_holder("a", "tests/test_x.py::test_y")
        lease = granted(first.acquire(key, holder))
        assert (lease.key, lease.holder) == (key, holder)
        assert second.acquire(key, a_holder("b")) == holder
        assert first.acquire(key, a_holder("b")) == holder

    def test_a_holder_who_asks_again_is_told_itself(self, pair: Pair, key: str) -> None:
        """Not re-entrant: the same holder gets no second lease, also on its own manager."""
        first, second = pair
        granted(first.acquire(key, a_holder("a")))
        assert first.acquire(key, a_holder("a")) == a_holder("a")
        assert second.acquire(key, a_holder("a")) == a_holder("a")

    def test_keys_are_independent(self, pair: Pair, key: str) -> None:
        first, second = pair
        one = granted(first.acquire(key + "-1", a_holder("a")))
        two = granted(second.acquire(key + "-2", a_holder("b")))
        first.release(one)
        assert second.confirm(two)
        assert first.acquire(key + "-2", a_holder("a")) == a_holder("b")

    def test_release_lets_the_next_in_with_a_greater_token(self, pair: Pair, key: str) -> None:
        tokens = []
        for turn in range(12):
            manager = pair[turn % 2]
            lease = granted(manager.acquire(key, a_holder(str(turn))))
            tokens.append(lease.token)
            manager.release(lease)
        assert tokens == sorted(set(tokens))

    def test_confirm_is_true_while_held_and_false_afterwards(self, pair: Pair, key: str) -> None:
        """A commit that asks first commits only under a lease that is still the present one."""
        first, second = pair
        lease = granted(first.acquire(key, a_holder("a")))
        assert first.confirm(lease)
        assert first.confirm(lease)
        first.release(lease)
        assert not first.confirm(lease)
        granted(second.acquire(key, a_holder("a")))
        assert not first.confirm(lease)

    def test_a_release_that_comes_late_is_harmless(self, pair: Pair, key: str) -> None:
        """Releasing twice, or with an older token, never frees what somebody else holds now."""
        first, second = pair
        old = granted(first.acquire(key, a_holder("a")))
        first.release(old)
        first.release(old)
        new = granted(second.acquire(key, a_holder("b")))
        first.release(old)
        second.release(Lease(key, new.holder, old.token))
        assert second.confirm(new)
        assert first.acquire(key, a_holder("a")) == a_holder("b")

    def test_a_forged_lease_is_neither_confirmed_nor_released(self, pair: Pair, key: str) -> None:
        """Only the very lease that was granted counts."""
        first, _ = pair
        lease = granted(first.acquire(key, a_holder("a")))
        for forged in (
            Lease(key, a_holder("b"), lease.token),
            Lease(key, lease.holder, lease.token + 1),
            Lease(key + "-other", lease.holder, lease.token),
        ):
            assert not first.confirm(forged)
            first.release(forged)
        assert first.confirm(lease)

    def test_many_keys_are_held_at_once(self, pair: Pair, key: str) -> None:
        """A test may hold hundreds of keys; all stay exclusive, and all can be given up."""
        first, second = pair
        keys = [f"{key}-{number}" for number in range(KEYS_AT_ONCE)]
        leases = [granted(first.acquire(each, a_holder("a"))) for each in keys]
        assert all(second.acquire(each, a_holder("b")) == a_holder("a") for each in keys)
        assert all(first.confirm(lease) for lease in leases)
        for lease in leases:
            first.release(lease)
        for each in keys:
            second.release(granted(second.acquire(each, a_holder("b"))))

    def test_close_releases_everything(self, pair: Pair, key: str) -> None:
        """After close another manager gets each key, and the old leases are not confirmed."""
        first, second = pair
        leases = [granted(first.acquire(f"{key}-{n}", a_holder("a"))) for n in range(5)]
        first.close()
        first.close()
        for lease in leases:
            granted(second.acquire(lease.key, a_holder("b")))
            assert not first.confirm(lease)

    def test_close_leaves_others_alone(self, make_manager: MakeManager, key: str) -> None:
        first, second = make_manager(), make_manager()
        if first is second:
            pytest.skip("all share one manager")
        lease = granted(first.acquire(key, a_holder("a")))
        second.acquire(key, a_holder("b"))
        second.close()
        assert first.confirm(lease)
        first.close()

    @pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text)[1:15])
    def test_any_text_is_a_key_and_a_label(self, pair: Pair, key: str, text: str) -> None:
        """Names given outright and node ids may hold any character."""
        first, second = pair
        lease = granted(first.acquire(key + text, a_holder("a", text)))
        assert second.acquire(key + text, a_holder("b")) == a_holder("a", text)
        granted(second.acquire(key + text + "'", a_holder("b")))
        assert first.confirm(lease)

    def test_threads_of_one_manager_exclude_each_other(self, pair: Pair, key: str) -> None:
        inside: list[int] = []
        most: list[int] = []
        done = [0] * THREADS

        def work(number: int) -> None:
            manager = pair[number % 2]
            pause = threading.Event()
            while done[number] < ROUNDS:
                answer = manager.acquire(key, a_holder(str(number)))
                if isinstance(answer, Holder):
                    pause.wait(0.001)
                    continue
                inside.append(number)
                most.append(len(inside))
                pause.wait(0.0005)
                inside.remove(number)
                done[number] += 1
                manager.release(answer)

        in_threads(work)
        assert done == [ROUNDS] * THREADS
        assert max(most) == 1

    @pytest.mark.parametrize("seed", [1, 2])
    def test_it_behaves_like_a_dictionary_of_leases(self, pair: Pair, key: str, seed: int) -> None:
        """Any sequence of operations gives what one dictionary from key to lease would give."""
        chance = random.Random(seed)
        held: dict[str, tuple[int, Lease]] = {}
        past: list[tuple[int, Lease]] = []
        for step in range(150):
            name = f"{key}-{chance.randrange(4)}"
            who = chance.randrange(2)
            deed = chance.choice(("acquire", "acquire", "release", "confirm", "stale"))
            if deed == "acquire":
                answer = pair[who].acquire(name, a_holder(str(step)))
                if name in held:
                    assert answer == held[name][1].holder
                else:
                    held[name] = (who, granted(answer))
            elif deed == "release" and name in held:
                owner, lease = held.pop(name)
                pair[owner].release(lease)
                past.append((owner, lease))
            elif deed == "confirm" and name in held:
                owner, lease = held[name]
                assert pair[owner].confirm(lease)
            elif deed == "stale" and past:
                owner, lease = chance.choice(past)
                assert not pair[owner].confirm(lease)
                pair[owner].release(lease)
