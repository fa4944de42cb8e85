from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from al_dagster.core.rle import decode
from al_dagster.labelling.masks import RunMasks, restore_masks
from al_dagster.registry.masks import MaskStore
from al_dagster.registry.objects import get_object
from al_dagster.registry.review import validate_objects


class Revised:
    """A segmenter of another revision."""

    def __init__(self, segmenter, revision: str) -> None:
        self.model_id, self.revision, self.segment = segmenter.model_id, revision, segmenter.segment
        self.images_per_call = segmenter.images_per_call


def files_of(chain) -> set[str]:
    return {str(path.relative_to(chain.masks.root)) for path in chain.masks.root.rglob("*.png")}


def test_every_box_gets_a_mask_as_a_file_and_as_run_lengths_of_the_whole_frame(chain):
    table = chain.up_to("mask_table").table
    assert table["object_id"].to_pylist() == chain.last("detections")["object_id"].to_pylist()
    assert files_of(chain) == set(table["mask_path"].to_pylist())
    for row in table.to_pylist():
        pixels = MaskStore(chain.masks.root).read(row["mask_path"])
        assert pixels.shape == (120, 160)
        assert pixels.sum() == row["area"]
        assert 0 <= row["score"] <= 1
        assert np.array_equal(decode(row["rle"], 160, 120), pixels)


def test_a_disc_is_cut_out_as_a_disc(chain):
    rows = chain.up_to("mask_table").table.to_pylist()
    assert max(row["area"] for row in rows) == pytest.approx(np.pi * 17.5**2, rel=0.15)


def test_masks_are_not_made_again(chain):
    first = chain.up_to("mask_table")
    again = chain.mask_table()
    assert (again.computed, again.reused) == (0, 4)
    assert again.table.equals(first.table)


def test_a_mask_whose_file_is_lost_is_made_again_and_only_that_one(chain):
    first = chain.up_to("mask_table").table
    (chain.masks.root / first["mask_path"][1].as_py()).unlink()
    again = chain.mask_table()
    assert (again.computed, again.reused) == (1, 3)
    assert again.table.equals(first)
    assert files_of(chain) == set(first["mask_path"].to_pylist())


@pytest.mark.parametrize("damage", ["emptied", "cut off", "flipped", "other magic", "other size"])
def test_a_mask_whose_file_is_damaged_is_made_again_and_only_that_one(chain, damage, spoil):
    first = chain.up_to("mask_table").table
    good = {path: (chain.masks.root / path).read_bytes() for path in files_of(chain)}
    path = first["mask_path"][1].as_py()
    if damage == "other size":
        Pillow.new("1", (9, 9)).save(chain.masks.root / path)
    else:
        spoil(chain.masks.root / path, damage)
    chain.masks = RunMasks(MaskStore(chain.masks.root))
    again = chain.mask_table()
    assert (again.computed, again.reused) == (1, 3)
    assert again.table.equals(first)
    assert {path: (chain.masks.root / path).read_bytes() for path in files_of(chain)} == good


def test_a_damaged_mask_of_a_validated_object_is_restored_whatever_cuts_out_now(chain, spoil):
    first = chain.up_to("objects")
    ids = first.table["object_id"].to_pylist()
    validate_objects(chain.registry, ids[:1], "ann")
    path = get_object(chain.registry, ids[0])["mask_path"]
    good = (chain.masks.root / path).read_bytes()
    spoil(chain.masks.root / path, "cut off")
    chain.models = replace(chain.models, segmenter=Revised(chain.models.segmenter, "next"))
    restore_masks(chain.registry, chain.masks, chain.last("frames"))
    chain.up_to("objects")
    assert get_object(chain.registry, ids[0])["mask_path"] == path
    assert (chain.masks.root / path).read_bytes() == good


def test_another_revision_of_the_segmenter_makes_new_files_and_leaves_the_old(chain):
    first = chain.up_to("mask_table").table
    chain.models = replace(chain.models, segmenter=Revised(chain.models.segmenter, "next"))
    again = chain.mask_table()
    assert again.computed == 4
    assert files_of(chain) == set(first["mask_path"].to_pylist()) | set(again.table["mask_path"].to_pylist())
    assert not set(first["mask_path"].to_pylist()) & set(again.table["mask_path"].to_pylist())


def test_a_mask_is_the_same_from_memory_and_from_its_file(chain):
    (row, *_) = chain.up_to("mask_table").table.to_pylist()
    box = next(box for box in chain.last("detections").to_pylist() if box["object_id"] == row["object_id"])
    fresh = RunMasks(MaskStore(chain.masks.root))
    full = MaskStore(chain.masks.root).read(row["mask_path"])
    for masks in (chain.masks, fresh):
        mask = masks.read(box, row["mask_path"])
        assert (mask.x, mask.y, mask.score) == (int(box["bbox_x"]), int(box["bbox_y"]), 1.0)
        assert np.array_equal(mask.full(160, 120), full)


def test_masks_beyond_the_memory_are_read_from_their_files(chain):
    chain.masks = RunMasks(MaskStore(chain.masks.root), cache_bytes=1000)
    rows = chain.up_to("mask_table").table.to_pylist()
    boxes = {box["object_id"]: box for box in chain.last("detections").to_pylist()}
    assert [chain.masks.read(boxes[row["object_id"]], row["mask_path"]).area for row in rows] == [
        row["area"] for row in rows
    ]


def test_objects_of_a_picture_that_vanished_have_no_mask_until_it_is_back(chain, home):
    chain.up_to("detections")
    chain.images.clear()
    path = home.path / "images" / "picture_0.png"
    content = path.read_bytes()
    path.unlink()
    assert chain.mask_table().table.num_rows == 2
    path.write_bytes(content)
    again = chain.mask_table()
    assert (again.computed, again.reused, again.table.num_rows) == (2, 2, 4)
