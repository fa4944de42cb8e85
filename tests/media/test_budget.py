import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from al_dagster.media.budget import PixelBudget


class Held:
    """The pixels that threads hold of a budget, and the most that they held together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def add(self, pixels: int) -> None:
        with self.lock:
            self.now += pixels
            self.most = max(self.most, self.now)


@pytest.mark.parametrize("sizes", [[5] * 40, [1, 9, 4] * 15, [10] * 20], ids=["equal", "mixed", "each of all"])
def test_threads_together_hold_no_more_than_the_budget(sizes):
    budget, held = PixelBudget(10), Held()

    def use(pixels: int) -> None:
        with budget.hold(pixels):
            held.add(pixels)
            threading.Event().wait(0.001)
            held.add(-pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, sizes))
    assert 0 < held.most <= 10
    assert held.now == 0


def test_an_image_larger_than_the_budget_is_let_in_alone():
    budget, held = PixelBudget(10), Held()

    def use(pixels: int) -> None:
        with budget.hold(pixels):
            held.add(1)
            threading.Event().wait(0.001)
            held.add(-1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [25] * 8))
    assert held.most == 1


def test_images_that_fit_are_held_at_the_same_time():
    budget = PixelBudget(10)
    together = threading.Barrier(2, timeout=60)

    def use(_: int) -> None:
        with budget.hold(5):
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(use, range(2)))


def test_what_an_error_leaves_is_given_back():
    budget = PixelBudget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), budget.hold(10):
            raise ValueError("damaged")
    with budget.hold(10):
        pass
