import threading

import pytest

from al_dagster.core.progress import listening, report


def test_every_listener_hears_what_is_reported_while_it_listens():
    outer: list[tuple[str, int, int]] = []
    inner: list[tuple[str, int, int]] = []
    report("before", 0, 1)
    with listening(lambda *heard: outer.append(heard)):
        report("masks", 1, 2)
        with listening(lambda *heard: inner.append(heard)):
            report("masks", 2, 2)
        report("embeddings", 1, 1)
    report("after", 1, 1)
    assert outer == [("masks", 1, 2), ("masks", 2, 2), ("embeddings", 1, 1)]
    assert inner == [("masks", 2, 2)]


def test_a_listener_is_gone_after_an_error():
    heard: list[str] = []

    def fail() -> None:
        with listening(lambda step, *_: heard.append(step)):
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    report("later", 1, 1)
    assert heard == []


def test_another_thread_is_not_heard():
    heard: list[str] = []
    with listening(lambda step, *_: heard.append(step)):
        thread = threading.Thread(target=report, args=("elsewhere", 1, 1))
        thread.start()
        thread.join()
    assert heard == []
