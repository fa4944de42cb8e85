"""The pixels that several threads hold decoded at once, bounded over all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class PixelBudget:
    """Lets threads decode images while those that are held have no more pixels than so many together.

    An image is always let in where none is held, however large it is. A thread holds one image at a time: two that
    each waited for a second would wait for ever.

    Example:
        >>> budget = PixelBudget(200_000_000)
        >>> with budget.hold(4000 * 3000):
        ...     pass  # decode the image and use it here
    """

    def __init__(self, pixels: int) -> None:
        self._most = pixels
        self._held = 0
        self._images = 0
        self._changed = Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until an image of so many pixels fits, and count it until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._images or self._held + pixels <= self._most)
            self._held += pixels
            self._images += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._images -= 1
                self._changed.notify_all()
