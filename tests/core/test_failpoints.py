import pytest

from al_dagster.core.failpoints import clear_failpoints, reach, set_failpoint


@pytest.fixture(autouse=True)
def nothing_set():
    yield
    clear_failpoints()


def test_a_place_does_what_was_set_for_it_each_time_and_no_other_place_does():
    calls = []
    set_failpoint("objects committed", lambda: calls.append("reached"))
    reach("objects committed")
    reach("vectors written")
    reach("objects committed")
    assert calls == ["reached", "reached"]


def test_what_is_raised_there_is_raised_at_the_place():
    def cut() -> None:
        raise OSError("power cut")

    set_failpoint("vectors written", cut)
    with pytest.raises(OSError, match="power cut"):
        reach("vectors written")
    clear_failpoints()
    reach("vectors written")
