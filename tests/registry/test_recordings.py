"""Which files are neighbours of one recording, told from names, capture times and small pictures."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from al_dagster.demo.scenes import draw_scene
from al_dagster.registry.recordings import RecordedFile, numbered_runs, recording_pairs

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "../shared/data"
NOON = datetime(2026, 5, 1, 12)


def thumbnail(image):
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).tobytes()


def shot(image, rng, sigma=4.0):
    """A picture as a camera would have it: noise, and JPEG."""
    noisy = np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_COLOR)


@cache
def landscape(seed):
    """A picture of 1600×1200 with things of all sizes."""
    rng = np.random.default_rng(seed)
    sizes = ((3, 4), (9, 12), (24, 32), (60, 80), (150, 200))
    layers = [cv2.resize(rng.normal(0, 25, (*size, 3)), (1600, 1200), interpolation=cv2.INTER_CUBIC) for size in sizes]
    return np.clip(128 + sum(layers), 0, 255)


def view(scenery, x, y, scale=1.0):
    turned = np.array([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale]])
    return cv2.warpAffine(scenery, turned, (640, 480), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def table(rng, parts, back=None):
    image = np.full((480, 640, 3), (150, 160, 150), np.float64) if back is None else back.copy()
    for x, y in parts:
        kind, ink, size = rng.integers(3), rng.integers(20, 100, 3).tolist(), int(rng.integers(25, 60))
        if kind == 2:
            cv2.rectangle(image, (x - size, y - size // 2), (x + size, y + size // 2), ink, -1)
        else:
            cv2.circle(image, (x, y), size, ink, -1 if kind else size // 3)
    return shot(image, rng)


def spots(rng, count):
    return [(int(rng.integers(60, 580)), int(rng.integers(60, 420))) for _ in range(count)]


def numbered(pictures, name="frame_{:04d}.jpg", times=None):
    return [
        RecordedFile(
            "/in/" + name.format(number),
            times[number] if times else None,
            None if picture is None else thumbnail(picture),
        )
        for number, picture in enumerate(pictures)
    ]


def share(files):
    return len(recording_pairs(files)) / (len(files) - 1)


def largest(files):
    """Files in the longest chain of neighbours, as a share."""
    longest = length = 1
    linked = {second for _, second in recording_pairs(files)}
    for index in range(1, len(files)):
        length = length + 1 if index in linked else 1
        longest = max(longest, length)
    return longest / len(files)


def walk(number, rng):
    return 500 + 30 * np.sin(number / 3) + rng.normal(0, 4), 350 + 20 * np.cos(number / 4) + rng.normal(0, 4)


CAMERAS = {
    "pan": (30, 0.9, lambda n, rng: (50 + 8 * n, 300 + 2 * n)),
    "a frame a second": (12, 0.9, lambda n, rng: (20 + 80 * n, 300)),
    "zoom": (30, 0.9, lambda n, rng: (300 - 2 * n, 250 - 1.5 * n, 1 + 0.015 * n)),
    "walk": (30, 0.8, walk),
    "jitter": (30, 0.7, lambda n, rng: (400 + rng.normal(0, 10), 300 + rng.normal(0, 10))),
    "tripod": (5, 1.0, lambda n, rng: (400, 300)),
    "burst": (3, 1.0, lambda n, rng: (400 + 9 * n, 300 - 6 * n)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("camera", CAMERAS)
def test_frames_of_a_camera_that_moves_through_a_scene_are_a_recording(camera, seed):
    count, expected, place = CAMERAS[camera]
    rng, scenery = np.random.default_rng(seed), landscape(seed)
    files = numbered([shot(view(scenery, *place(number, rng)), rng) for number in range(count)])
    assert share(files) >= expected


@pytest.mark.parametrize("step", [1, 2, 5])
def test_frames_of_a_still_camera_in_which_one_part_moves_slowly_are_a_recording(step):
    back = np.full((480, 640, 3), (198, 190, 176)) + np.random.default_rng(1).normal(0, 3, (480, 640, 1))
    pictures = []
    for number in range(40):
        image = back.copy()
        cv2.circle(image, (200 + step * number, 200), 30, (60, 70, 90), 20)
        pictures.append(shot(image, np.random.default_rng(number), 2))
    assert share(numbered(pictures)) == 1


def test_bursts_of_different_scenes_are_recordings_of_their_own():
    pictures = []
    for scene in range(6):
        rng, scenery = np.random.default_rng(scene), landscape(scene)
        pictures += [shot(view(scenery, 400 + 8 * n, 300 + rng.normal(0, 3)), rng) for n in range(5)]
    pairs = set(recording_pairs(numbered(pictures)))
    within = {(n, n + 1) for n in range(29) if n % 5 < 4}
    assert pairs <= within
    assert len(pairs) >= 0.9 * len(within)


FIXED_CAMERA = {
    "one part": lambda n, rng: table(rng, spots(rng, 1)),
    "five parts": lambda n, rng: table(rng, spots(rng, 5)),
    "parts in a fixture": lambda n, rng: table(
        rng, [(320 + int(rng.integers(-12, 13)), 240 + int(rng.integers(-12, 13)))], view(landscape(9), 300, 300)
    ),
    "in light that drifts": lambda n, rng: shot(table(rng, spots(rng, 3)) * (1 + 0.25 * np.sin(n / 8)), rng),
    "in front of a busy wall": lambda n, rng: table(rng, spots(rng, 1), view(landscape(9), 300, 300)),
}


@pytest.mark.parametrize("photo", FIXED_CAMERA)
def test_photos_of_different_parts_by_a_fixed_camera_are_no_recording(photo):
    rng = np.random.default_rng(5)
    files = numbered([FIXED_CAMERA[photo](number, rng) for number in range(60)])
    assert share(files) <= 0.1
    assert largest(files) <= 0.1


def test_the_scenes_of_the_demonstration_are_no_recording():
    assert recording_pairs(numbered([draw_scene(index).image for index in range(30)], "scene_{:04d}.jpg")) == []


@pytest.mark.parametrize(
    ("folder", "pattern", "limit"), [("coco64/images", "img_{:03d}.jpg", 0), ("bccd/JPEGImages", "smear{}.jpg", 2)]
)
def test_photos_of_different_things_are_no_recording(folder, pattern, limit):
    photos = sorted((DATA / folder).glob("*.jpg"))
    if not photos:
        pytest.skip("the photos are not on this machine")
    files = numbered([cv2.imread(str(photo)) for photo in photos], pattern)
    assert len(recording_pairs(files)) <= limit


def test_photos_taken_within_two_seconds_of_each_other_are_a_recording_whatever_they_show():
    times = [NOON + timedelta(seconds=seconds) for seconds in (0, 1, 3, 6, 7)]
    rng = np.random.default_rng(0)
    pictures = [shot(view(landscape(n), 300, 300), rng) for n in range(5)]
    assert recording_pairs(numbered(pictures, times=times)) == [(0, 1), (1, 2), (3, 4)]
    assert recording_pairs(numbered([None] * 5, times=times)) == [(0, 1), (1, 2), (3, 4)]


def test_times_that_go_back_or_that_many_files_share_say_nothing():
    back = [NOON, NOON - timedelta(seconds=1), NOON - timedelta(seconds=2)]
    assert recording_pairs(numbered([None] * 3, times=back)) == []
    assert len(recording_pairs(numbered([None] * 20, times=[NOON] * 20))) == 19
    assert recording_pairs(numbered([None] * 60, times=[NOON] * 60)) == []


def test_files_of_which_nothing_but_the_name_is_known_are_no_recording():
    assert recording_pairs(numbered([None] * 10)) == []
    assert recording_pairs([]) == []


def test_a_file_without_a_thumbnail_breaks_no_recording_around_it():
    rng, scenery = np.random.default_rng(0), landscape(0)
    pictures = [shot(view(scenery, 50 + 8 * n, 300), rng) for n in range(20)]
    pairs = recording_pairs(numbered([None if n == 9 else picture for n, picture in enumerate(pictures)]))
    assert pairs == [(n, n + 1) for n in range(19) if n not in (8, 9)]


def test_a_thumbnail_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"/in/a1\.jpg: a thumbnail has 1024 bytes"):
        recording_pairs([RecordedFile("/in/a1.jpg", None, b"x")])


def runs(*names):
    return [[names[index] for index in run] for run in numbered_runs(names)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("/a/f9.jpg", "/a/f10.jpg", "/a/f7.jpg"), [["/a/f7.jpg", "/a/f9.jpg", "/a/f10.jpg"]]),
        (("/a/f_0030.png", "/a/f_0000.png", "/a/f_0060.png"), [["/a/f_0000.png", "/a/f_0030.png", "/a/f_0060.png"]]),
        (
            ("/a/f1.jpg", "/a/f2.jpg", "/a/f9.jpg", "/a/f10.jpg"),
            [["/a/f1.jpg", "/a/f2.jpg"], ["/a/f9.jpg", "/a/f10.jpg"]],
        ),
        (("/a/f1_cam1.jpg", "/a/f2_cam1.jpg"), [["/a/f1_cam1.jpg", "/a/f2_cam1.jpg"]]),
        (
            ("/a/f1_jpg.rf.0a1b2c3d.jpg", "/a/f2_jpg.rf.99aabbcc.jpg"),
            [["/a/f1_jpg.rf.0a1b2c3d.jpg", "/a/f2_jpg.rf.99aabbcc.jpg"]],
        ),
        (("/a/f1.jpg", "/b/f2.jpg"), []),
        (("/a/f1.jpg", "/a/f2.png"), []),
        (("/a/f1.jpg", "/a/g2.jpg"), []),
        (("/a/left.jpg", "/a/right.jpg"), []),
        (("/a/f1.jpg",), []),
    ],
)
def test_runs_are_files_whose_names_differ_in_one_number_that_counts_up(names, expected):
    assert runs(*names) == expected


def test_the_order_in_which_files_are_given_changes_nothing():
    rng, scenery = np.random.default_rng(0), landscape(0)
    files = numbered([shot(view(scenery, 50 + 8 * n, 300), rng) for n in range(24)])
    order = rng.permutation(24).tolist()
    found = recording_pairs([files[index] for index in order])
    assert {(order[one], order[other]) for one, other in found} == set(recording_pairs(files)) != set()
