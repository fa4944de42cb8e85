"""Decoded images, shared by the stages of a run as far as the cache holds them, decoded ahead of who asks for them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import Image
from al_dagster.media.reading import ImageFile, read_file

Key = tuple[str, int]
"""The SHA-256 of a file and a page of it."""


class ImageLoader:
    """Reads images through a cache that keeps the first it is given; safe to share between threads.

    Each stage reads the images of a run in the same order. A cache that dropped the oldest for the newest would, where
    they do not all fit, hold none of them when the next stage asks. Memory stays below ``cache_mb`` plus the images
    decoded ahead of an iteration, which have ``max_pixels`` pixels at most or are a single one. The images are
    read-only.

    Args:
        max_pixels: an image of more pixels than this is refused.
        cache_mb: memory for decoded images in MiB; 0 keeps none.
        workers: threads that decode ahead.
        look_ahead: images of one iteration that are decoded, or being decoded, before they are asked for.
    """

    def __init__(self, max_pixels: int, cache_mb: int, *, workers: int = 2, look_ahead: int = 4) -> None:
        self._max_pixels = max_pixels
        self._capacity = cache_mb * 1024 * 1024
        self._look_ahead = max(1, look_ahead)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._lock = Lock()
        self._cached: dict[Key, Image] = {}
        self._cached_bytes = 0
        self._decoding: dict[ImageFile, Future[Image]] = {}

    @property
    def cached_bytes(self) -> int:
        """Memory that the cached images take."""
        return self._cached_bytes

    def load(self, file: ImageFile) -> Image:
        """The image of a page of a file: (height, width, 3), uint8, RGB, upright, read-only.

        Args:
            file: what to read; the image is cached under its content, which is checked where it is read.

        Raises:
            UnreadableFileError: the file can no longer be read, or holds something else by now.
        """
        key = (file.sha256, file.page)
        with self._lock:
            if (image := self._cached.get(key)) is not None:
                return image
            other = self._decoding.get(file)
            mine: Future[Image] = Future()
            if other is None:
                self._decoding[file] = mine
        if other is not None:
            return other.result()
        try:
            image = read_file(file, max_pixels=self._max_pixels)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            self.put(file.sha256, image, file.page)
            mine.set_result(image)
            return image
        finally:
            with self._lock:
                self._decoding.pop(file, None)

    def put(self, sha256: str, image: Image, page: int = 0) -> None:
        """Keep an image that was decoded elsewhere, such as by the inspection of its file, if the cache has room."""
        key = (sha256, page)
        image.flags.writeable = False
        with self._lock:
            if key in self._cached or self._cached_bytes + image.nbytes > self._capacity:
                return
            self._cached[key] = image
            self._cached_bytes += image.nbytes

    def images(self, files: Sequence[ImageFile]) -> Iterator[Image]:
        """The images of files, in their order, decoded ahead in threads.

        Args:
            files: what to read.

        Raises:
            UnreadableFileError: a file can no longer be read; the iteration ends there.
        """
        for outcome in self.outcomes(files):
            if isinstance(outcome, UnreadableFileError):
                raise outcome
            yield outcome

    def outcomes(
        self, files: Sequence[ImageFile], look_ahead: int | None = None, pixels_ahead: int | None = None
    ) -> Iterator[Image | UnreadableFileError]:
        """Like ``images``, but a file that can no longer be read gives its error in its place, and the others follow.

        Args:
            files: what to read.
            look_ahead: images that are decoded before they are asked for; default the loader's.
            pixels_ahead: the most pixels that these have together, but for a single image; default the loader's
                ``max_pixels``.
        """
        most = look_ahead or self._look_ahead
        most_pixels = pixels_ahead or self._max_pixels
        ahead: deque[Future[Image]] = deque()
        pixels, started = 0, 0
        try:
            for asked, file in enumerate(files):
                for later in files[started : asked + most]:
                    if ahead and pixels + later.pixels > most_pixels:
                        break
                    ahead.append(self._pool.submit(self.load, later))
                    pixels += later.pixels
                    started += 1
                pixels -= file.pixels
                yield _outcome(ahead.popleft())
        finally:
            for future in ahead:
                future.cancel()

    def clear(self) -> None:
        """Free the cached images."""
        with self._lock:
            self._cached.clear()
            self._cached_bytes = 0

    def close(self) -> None:
        """Free the cached images and end the threads."""
        self._pool.shutdown(cancel_futures=True)
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _outcome(decoded: Future[Image]) -> Image | UnreadableFileError:
    try:
        return decoded.result()
    except UnreadableFileError as error:
        return error
