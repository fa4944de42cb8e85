"""Work on several images at a time."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import cv2

IMAGES_PER_CALL = 8
"""Images worth giving at once to a model that takes them one by one on as many threads as there are processors."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_images(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Apply a function to each item, as many at a time as there are processors.

    OpenCV and NumPy release the interpreter while they compute, so threads are enough. The function must depend on
    nothing but its item; OpenCV's random numbers are each thread's own.

    Args:
        work: what is done with an item; it must not call ``map_images`` itself.
        items: the items.

    Returns:
        The results in the order of the items.

    Raises:
        Exception: what ``work`` raised for the first item it failed on.
    """
    return list(_pool(os.getpid()).map(work, items))


def stream_calls(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[tuple[_Item, _Result]]:
    """Call a model for a stream of chunks, each while the result of the one before is being used.

    The call runs in a thread of its own, one call at a time. Memory is bounded: no more than two items and their
    results are held.

    Args:
        work: what is done with an item.
        items: the items; their iterator runs in the caller's thread.

    Yields:
        Each item with its result, in order.

    Raises:
        Exception: what ``work`` raised, where its item would come; the call under way is waited for.
    """
    with ThreadPoolExecutor(1, "model-call") as thread:
        before: tuple[_Item, Future[_Result]] | None = None
        for item in items:
            after = (item, thread.submit(work, item))
            if before is not None:
                yield before[0], before[1].result()
            before = after
        if before is not None:
            yield before[0], before[1].result()


def be_repeatable() -> None:
    """Make OpenCV give the same result for the same image in this thread, wherever in memory the image lies.

    Its IPP routines do not: what they give depends on the alignment of the image's memory.
    """
    cv2.ipp.setUseIPP(False)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of a process; a forked one, which has none of its parent's threads, makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), f"vision-{process}", initializer=be_repeatable)
