"""Work on several images at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
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

    The calls run one at a time in a thread that lasts as long as the process, since what libraries keep for a thread,
    such as torch's CUDA graphs, is lost with it. Memory is bounded: at most three items are held, the one whose result
    is being used, the one in the call and the next.

    Args:
        work: what is done with an item.
        items: the items; their iterator runs in the caller's thread.

    Yields:
        Each item with its result, in order.

    Raises:
        Exception: what ``work`` raised, where its item would come; the call under way is waited for.
    """
    thread = _model_thread(os.getpid())
    under_way: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        for item in items:
            under_way.append((item, thread.submit(work, item)))
            if len(under_way) == 2:
                before, call = under_way.popleft()
                yield before, call.result()
        for before, call in under_way:
            yield before, call.result()
    finally:
        wait([call for _, call in under_way if not call.cancel()])


def be_repeatable() -> None:
    """Make OpenCV give the same result for the same image in this thread, wherever in memory the image lies.

    Its IPP routines do not: what they give depends on the alignment of the image's memory.
    """
    cv2.ipp.setUseIPP(False)


@cache
def _model_thread(process: int) -> ThreadPoolExecutor:
    """The thread of a process that calls models."""
    return ThreadPoolExecutor(1, f"model-call-{process}")


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of a process; a forked one, which has none of its parent's threads, makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), f"vision-{process}", initializer=be_repeatable)
