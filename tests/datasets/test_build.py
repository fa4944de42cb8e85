from pathlib import Path
from typing import Any, cast

import pytest

from al_dagster.datasets.build import BuiltDataset
from al_dagster.datasets.definition import SplitRatios
from al_dagster.datasets.leaks import find_leaks
from al_dagster.datasets.splits import split_of
from al_dagster.registry.datasets import dataset_objects, get_dataset
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import edit_object
from al_dagster.registry.tables import Source, SourceTie


def build(lab: Any, **values: Any) -> BuiltDataset:
    return cast(BuiltDataset, lab.build(**values))


def names(built: BuiltDataset) -> dict[str, str]:
    return {Path(image.file_path).name: image.split for image in built.dataset.images}


def test_all_active_objects_of_the_project_go_in_by_default(lab: Any):
    lab.fill(12)

    built = build(lab)

    assert sum(built.report.objects.values()) == 24
    assert sum(built.report.images.values()) == 12
    assert built.dataset.classes == ("nut", "bolt", "washer")
    record = get_dataset(lab.registry, "parts")
    assert (record.dataset_id, record.version, record.run_id) == (built.dataset.dataset_id, "1.0", "run-1")
    assert record.category_mapping == {"nut": 0, "bolt": 1, "washer": 2}
    frozen = {item.object_id: image.split for image in built.dataset.images for item in image.objects}
    assert dict(dataset_objects(lab.registry, record.dataset_id)) == frozen


def test_objects_of_one_image_share_the_split_of_its_group(lab: Any):
    sources = lab.fill(15)

    built = build(lab, split={"train": 0.4, "val": 0.3, "test": 0.3})

    ratios = SplitRatios(train=0.4, val=0.3, test=0.3)
    assert names(built) == {path.name: split_of(source, ratios) for path, source in sources.items()}
    assert set(names(built).values()) == {"train", "val", "test"}
    assert built.report.ratios == {split: count / 15 for split, count in built.report.images.items()}


@pytest.mark.parametrize(
    ("chosen", "categories"),
    [
        ({"categories": ["bolt"]}, {"bolt": 6}),
        ({"categories": ["washer", "bolt"]}, {"bolt": 6, "washer": 0}),
        ({"min_confidence": 0.6}, {"nut": 6, "bolt": 6, "washer": 0}),
        ({"min_confidence": 0.61, "on_dropped": "keep"}, {"nut": 6, "bolt": 0, "washer": 0}),
    ],
)
def test_the_filter_chooses_and_the_classes_keep_the_projects_order(
    lab: Any, chosen: dict[str, Any], categories: dict[str, int]
):
    lab.fill(6)

    built = build(lab, filter=chosen)

    assert {name: sum(counts.values()) for name, counts in built.report.categories.items()} == categories
    assert built.dataset.classes == tuple(categories)


def test_the_same_content_is_the_same_version_and_new_content_a_new_one(lab: Any):
    lab.fill(5)
    first = build(lab)
    again = build(lab, formats=["coco"], training={"epochs": 1})
    lab.fill(3, start=5)
    grown = build(lab)

    assert first.created
    assert not again.created
    assert again.dataset.dataset_id == first.dataset.dataset_id
    assert again.dataset.table.equals(first.dataset.table)
    assert (grown.created, grown.dataset.version) == (True, "1.1")
    assert grown.dataset.content_hash != first.dataset.content_hash


def test_an_edited_box_makes_a_new_version(lab: Any):
    lab.fill(3)
    first = build(lab)
    edit_object(lab.registry, list_objects(lab.registry)[0]["object_id"], "ann", bbox=(2, 2, 60, 50))

    assert build(lab).dataset.content_hash != first.dataset.content_hash


def test_no_image_changes_its_split_as_the_data_grows(lab: Any):
    seen: dict[str, str] = {}
    for start in range(0, 40, 10):
        lab.fill(10, start=start)
        now = names(build(lab, split={"train": 0.6, "val": 0.2, "test": 0.2}))
        assert seen.items() <= now.items()
        seen = now
    assert len(seen) == 40


def _two_apart(lab: Any) -> list[Path]:
    """Files that will be in different splits of 0.5, 0.25, 0.25 by their own ids."""
    from al_dagster.core.hashing import file_sha256
    from al_dagster.core.ids import source_id

    ratios = SplitRatios(train=0.5, val=0.25, test=0.25)
    by_split: dict[str, Path] = {}
    for seed in range(100):
        path = lab.draw(f"{seed}.png", seed)
        by_split.setdefault(split_of(source_id(file_sha256(path)), ratios), path)
        if len(by_split) == 2:
            break
    return list(by_split.values())


HALVES = {"train": 0.5, "val": 0.25, "test": 0.25}


def test_near_duplicates_share_a_split_and_a_bridge_between_two_groups_is_held_out(lab: Any):
    first, second = _two_apart(lab)
    twin, bridge = lab.draw("twin.png", 1001), lab.draw("bridge.png", 1002)
    box = [("nut", (1.0, 1.0, 20.0, 20.0), 0.9)]
    hashes = {first: 0, second: 0xFFF, twin: 0b11, bridge: 0b1111110}
    for path, bits in hashes.items():
        lab.label({path: box}, hashes={path: f"{bits:064x}"})

    built = build(lab, split=HALVES)

    splits = names(built)
    assert splits["twin.png"] == splits[first.name]
    assert splits[second.name] != splits[first.name]
    assert "bridge.png" not in splits
    (held,) = built.report.held_out
    assert (Path(held.file_path).name, held.distance, held.objects) == ("bridge.png", 6, 1)
    assert [item.sentence for item in built.report.left_out] == ["1 frame nearly the same as one of another split"]
    assert sum(built.report.objects.values()) == 3
    assert find_leaks(lab.registry, built.dataset, lab.distance) == []


def test_a_category_in_one_split_only_is_reported(lab: Any):
    lab.fill(12)
    lab.label({lab.draw("washer.png", 500): [("washer", (1, 1, 20, 20), 0.9)]})

    assert build(lab, split={"train": 0.4, "val": 0.3, "test": 0.3}).report.one_sided == ("washer",)


def test_neighbours_in_a_recording_that_are_in_two_groups_are_never_in_two_splits(lab: Any):
    sources = list(lab.fill(30).values())
    split_of = {image.source_id: image.split for image in lab.build().dataset.images}
    train = next(source for source in sources if split_of[source] == "train")
    later = next(source for source in reversed(sources) if split_of[source] != "train")
    same = next(source for source in reversed(sources) if split_of[source] == "train")
    with lab.registry.session() as session:
        for neighbour in (later, same, "src_elsewhere"):
            if neighbour == "src_elsewhere":
                session.add(Source(source_id=neighbour, source_type="image", group_key=neighbour))
                session.flush()
            session.add(SourceTie(project_id="parts", source_id=train, neighbour_id=neighbour))

    built = lab.build()

    assert {image.source_id for image in built.dataset.images} == set(sources) - {later}
    assert [item.sentence for item in built.report.left_out] == ["1 frame next to one of another split in a recording"]
    (held,) = built.report.held_out
    assert held.distance is None
