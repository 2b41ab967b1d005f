"""What a log has been told is what is read back of it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation.code_log import CodeLog, SourceFile, decode_log


@pytest.fixture
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_that_tell_it_at_once_lose_nothing(frequent_switches: None) -> None:
    """Neither which node is which, nor an import, nor what was touched."""
    log = CodeLog(lambda name: None, lambda kind, name: "digest")
    sources = [SourceFile(f"/{number}.py", f"{number}.py", True) for number in range(300)]
    together = Barrier(4)

    def tell(start: int) -> None:
        together.wait()
        for source in sources[start:] + sources[:start]:
            node = log.root(source)
            log.add_import(None, source)
            log.touch(node, Kind.ENVIRONMENT, source.name, source.name)
            assert log.file_of(node) == source.name
            if node % 5 == 0:
                log.flush()

    with ThreadPoolExecutor(4) as threads:
        for told in [threads.submit(tell, start) for start in (0, 3, 150, 299)]:
            told.result()
    read = decode_log([log.parts[blob.digest] for blob in log.flush()])
    assert read.nodes == log.nodes
    assert [name for name, _ in read.files] == [source.name for source in log.files]
    assert len(set(read.imports)) == len(sources)
    assert {each.name for each, _, _ in read.touches} == {source.name for source in sources}


def test_what_is_touched_again_when_sight_is_lost_is_noted_again() -> None:
    """It may look as it did by somebody else's doing; twice seen, or twice unseen, is once."""
    log = CodeLog(lambda name: None, lambda kind, name: "digest")
    node = log.root(SourceFile("/a.py", "a.py", True))
    for _ in range(3):
        log.touch(node, Kind.LISTING, "/data", "data")
        log.root(SourceFile("/b.py", "b.py", True))
        log.lose_sight()
    read = decode_log([log.parts[blob.digest] for blob in log.flush()])
    assert read.unseen == [2]
    assert [position for _, _, position in read.touches] == [1, 2]
