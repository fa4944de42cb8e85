import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from al_dagster.core.geometry import xywh_to_xyxy
from al_dagster.demo.camera import HEIGHT, WIDTH
from al_dagster.demo.parts import CLASSES
from al_dagster.demo.scenes import BACKGROUND, Part, Scene, draw_scene, write_scenes, write_support
from al_dagster.demo.scoring import read_truth


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(index) for index in range(4)]


def full_mask(part: Part) -> np.ndarray:
    x, y, w, h = part.box
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + h, x : x + w] = part.mask
    return mask


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_scene_holds_8_to_12_parts_of_all_classes(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (480, 640, 3)
        assert scene.image.dtype == np.uint8
        assert 8 <= len(scene.parts) <= 12
        assert {part.label for part in scene.parts} == set(CLASSES)


def test_boxes_are_tight_around_what_is_seen_and_masks_do_not_overlap(scenes: list[Scene]) -> None:
    for scene in scenes:
        for part in scene.parts:
            x1, y1, x2, y2 = xywh_to_xyxy(np.array([part.box]))[0]
            assert 0 <= x1 < x2 <= WIDTH
            assert 0 <= y1 < y2 <= HEIGHT
            assert part.mask[0].any()
            assert part.mask[-1].any()
            assert part.mask[:, 0].any()
            assert part.mask[:, -1].any()
        assert np.sum([full_mask(part) for part in scene.parts], axis=0).max() == 1


def test_parts_touch_in_every_scene_and_some_are_covered(scenes: list[Scene]) -> None:
    for scene in scenes:
        grown = [cv2.dilate(full_mask(part).astype(np.uint8), np.ones((5, 5), np.uint8)) for part in scene.parts]
        assert np.sum(grown, axis=0).max() >= 2
    assert any(part.occluded for scene in scenes for part in scene.parts)


def test_the_truth_names_the_pixels_that_the_parts_changed(scenes: list[Scene]) -> None:
    """Inside the masks the picture has more contrast than on the table: the masks lie where the parts lie."""
    for scene in scenes:
        gray = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY)
        edges = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
        parts = np.any([full_mask(part) for part in scene.parts], axis=0)
        assert edges[parts].mean() > 2 * edges[~parts].mean()


def test_light_is_uneven_and_the_sensor_is_noisy(scenes: list[Scene]) -> None:
    for scene in scenes:
        gray = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        wide = cv2.resize(gray, (4, 3), interpolation=cv2.INTER_AREA)
        assert wide.max() > 1.15 * wide.min()
        assert np.abs(gray - cv2.medianBlur(scene.image[..., 1], 3)).std() > 0.5


def test_the_same_index_and_seed_give_the_same_scene_and_others_do_not() -> None:
    first = draw_scene(3, seed=7)
    assert np.array_equal(first.image, draw_scene(3, seed=7).image)
    assert not np.array_equal(first.image, draw_scene(4, seed=7).image)
    assert not np.array_equal(first.image, draw_scene(3, seed=8).image)


def test_written_scenes_and_their_truth_agree_with_what_was_drawn(tmp_path: Path) -> None:
    truth = write_scenes(tmp_path / "images", 2, truth_path=tmp_path / "truth.json")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["scene_0000.jpg", "scene_0001.jpg"]
    labels = read_truth(truth)
    for index in range(2):
        scene = draw_scene(index)
        written = cv2.cvtColor(cv2.imread(str(tmp_path / "images" / f"scene_{index:04d}.jpg")), cv2.COLOR_BGR2RGB)
        assert np.abs(written.astype(int) - scene.image).mean() < 6
        of_image = [(label.label, label.box) for label in labels if label.image == f"scene_{index:04d}.jpg"]
        assert of_image == [(part.label, part.box) for part in scene.parts]
    assert [category["name"] for category in json.loads(truth.read_text())["categories"]] == list(CLASSES)


def test_writing_again_touches_nothing_and_repairs_a_damaged_file(tmp_path: Path) -> None:
    write_scenes(tmp_path / "images", 2, truth_path=tmp_path / "truth.json")
    whole = (tmp_path / "images" / "scene_0001.jpg").read_bytes()
    before = stamps(tmp_path)
    write_scenes(tmp_path / "images", 2, truth_path=tmp_path / "truth.json")
    assert stamps(tmp_path) == before

    (tmp_path / "images" / "scene_0001.jpg").write_bytes(whole[:100])
    write_scenes(tmp_path / "images", 2, truth_path=tmp_path / "truth.json")
    assert (tmp_path / "images" / "scene_0001.jpg").read_bytes() == whole
    assert stamps(tmp_path).keys() == before.keys()


def test_the_support_set_has_a_folder_a_class_and_one_of_the_empty_table(tmp_path: Path) -> None:
    files = write_support(tmp_path, shots=2)
    assert {path.parent.name for path in files} == {*CLASSES, BACKGROUND}
    assert len(files) == 2 * (len(CLASSES) + 1)
    for path in files:
        height, width = cv2.imread(str(path)).shape[:2]
        assert 40 <= max(height, width) <= 190
    before = stamps(tmp_path)
    write_support(tmp_path, shots=2)
    assert stamps(tmp_path) == before
