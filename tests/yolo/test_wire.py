import io

import numpy as np
import pytest

from al_dagster.yolo.wire import read_request, write_request


def test_images_arrive_as_they_were_sent() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    images = [whole, whole[2:, ::2], np.asfortranarray(whole[:4])]
    stream = io.BytesIO()
    write_request(stream, images, {"conf": 0.05})
    write_request(stream, [], {})
    stream.seek(0)
    first, second = read_request(stream), read_request(stream)
    assert first is not None
    assert first.images is not None
    assert all(np.array_equal(sent, found) for sent, found in zip(images, first.images, strict=True))
    assert (first.arguments, second) == ({"conf": 0.05}, ([], {}))
    assert read_request(stream) is None


def test_a_stream_that_ends_within_a_request_has_none_left() -> None:
    stream = io.BytesIO()
    write_request(stream, [np.zeros((4, 4, 3), np.uint8)], {})
    whole = stream.getvalue()
    for length in (len(whole) - 1, 5):
        assert read_request(io.BytesIO(whole[:length])) is None


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_image_is_not_sent(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        write_request(io.BytesIO(), [image], {})


def test_images_that_no_memory_can_hold_are_read_past() -> None:
    """The process itself says so in ``tests/vision/test_yolo.py``; here the stream ends before they do."""
    header = b'{"sizes": [[4, 4], [4194304, 4194304]], "arguments": {}}\n'
    stream = io.BytesIO(header + bytes(200_000))
    assert read_request(stream) is None
    assert stream.read() == b""
