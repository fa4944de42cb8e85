import os
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from al_dagster.core.project import PROPOSAL
from al_dagster.vision.detector import OpenCvDetector
from al_dagster.vision.grabcut import GrabCutSegmenter
from al_dagster.vision.parallel import map_images, stream_calls
from al_dagster.vision.protocols import Prompt


def test_results_come_in_the_order_of_the_items():
    first = threading.Event()

    def work(item):
        if item == 0:
            first.wait(5)
        first.set()
        return item * item

    assert map_images(work, range(20)) == [item * item for item in range(20)]


def test_an_error_in_one_item_is_raised():
    with pytest.raises(ZeroDivisionError):
        map_images(lambda item: 1 / item, [1, 0, 2])


def test_many_images_at_a_time_give_what_each_gives_alone(tabletop, disc_and_bar):
    images = [np.ascontiguousarray(np.rot90(tabletop, turn)) for turn in range(4)] * 2
    boxes = [disc_and_bar + turn for turn in range(4)] * 2
    detector, segmenter = OpenCvDetector(), GrabCutSegmenter()
    together = detector.detect(images, [Prompt(PROPOSAL), Prompt("face")])
    masks = segmenter.segment(images, boxes)
    for image, image_boxes, found, cut in zip(images, boxes, together, masks, strict=True):
        alone = OpenCvDetector().detect([image], [Prompt(PROPOSAL), Prompt("face")])[0]
        assert np.array_equal(alone.xyxy, found.xyxy)
        assert np.array_equal(alone.confidence, found.confidence)
        for mask, box in zip(cut, image_boxes, strict=True):
            single = segmenter.segment([image], [box[None]])[0][0]
            assert np.array_equal(single.pixels, mask.pixels)
            assert single.score == mask.score


CHAIN = """
import hashlib, sys
import cv2, numpy as np
cv2.setNumThreads(int(sys.argv[1]))
from al_dagster.vision.crops import crop_object
from al_dagster.vision.detector import OpenCvDetector
from al_dagster.vision.grabcut import GrabCutSegmenter
from al_dagster.vision.hog_color import HogColorEmbedder
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.protocols import Prompt
rng = np.random.default_rng(5)
image = np.full((240, 320, 3), (60, 90, 120), np.uint8)
cv2.circle(image, (90, 100), 30, (200, 190, 60), -1)
cv2.circle(image, (140, 100), 26, (170, 172, 176), -1)
cv2.rectangle(image, (200, 150), (290, 175), (150, 152, 156), -1)
image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
digest = hashlib.sha256()
for found in OpenCvDetector().detect([image, image[::-1].copy()], [Prompt(PROPOSAL)]):
    digest.update(found.xyxy.tobytes() + found.confidence.tobytes())
masks = GrabCutSegmenter().segment([image], [found.xyxy])[0]
crops = [crop_object(image, box, mask) for box, mask in zip(found.xyxy, masks)]
digest.update(b"".join(mask.pixels.tobytes() for mask in masks))
digest.update(HogColorEmbedder().embed(crops).tobytes())
print(len(crops), digest.hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
    printed = [
        subprocess.run(
            [sys.executable, "-c", CHAIN, threads],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "3")
    ]
    assert int(printed[0].split()[0]) >= 3
    assert printed[0] == printed[1]


def test_the_routines_whose_results_depend_on_memory_alignment_are_off_in_every_thread():
    assert map_images(lambda _: cv2.ipp.useIPP(), range(8)) == [False] * 8


def test_a_stream_of_calls_gives_each_item_its_result_in_order_and_holds_two_items():
    given, held = [], []

    def items():
        for item in range(6):
            given.append(item)
            yield item

    for item, result in stream_calls(lambda item: item * item, items()):
        held.append(len(given) - item)
        assert result == item * item
    assert given == list(range(6))
    assert max(held) <= 2


def test_the_next_call_of_a_stream_runs_while_a_result_is_used():
    started = threading.Event()

    def work(item):
        if item == 1:
            started.set()
        return item

    for item, _ in stream_calls(work, range(2)):
        if item == 0:
            assert started.wait(10)


def test_what_a_call_of_a_stream_raises_comes_in_its_place():
    def work(item):
        if item == 2:
            raise ValueError("third")
        return item

    results = stream_calls(work, range(5))
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="third"):
        next(results)
