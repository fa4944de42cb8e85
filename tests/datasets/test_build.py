import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from al_dagster.core.errors import UserError
from al_dagster.core.lake import Lake
from al_dagster.datasets.build import BuiltDataset, build_dataset, unbuilt_content
from al_dagster.datasets.definition import SplitRatios
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.selection import attach, select_objects
from al_dagster.datasets.splits import split_of
from al_dagster.datasets.truth import find_leaks
from al_dagster.datasets.verify import no_split_leakage
from al_dagster.registry.datasets import dataset_objects, get_dataset
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import delete_object, edit_object, validate_objects


def build(lab: Any, **values: Any) -> BuiltDataset:
    return build_dataset(lab.registry, lab.definition(**values), duplicate_distance=lab.distance, run_id="run-1")


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
        ({"min_confidence": 0.61}, {"nut": 6, "bolt": 0, "washer": 0}),
    ],
)
def test_the_filter_chooses_and_the_classes_keep_the_projects_order(
    lab: Any, chosen: dict[str, Any], categories: dict[str, int]
):
    lab.fill(6)

    built = build(lab, filter=chosen)

    assert {name: sum(counts.values()) for name, counts in built.report.categories.items()} == categories
    assert built.dataset.classes == tuple(categories)


def test_validated_edited_and_deleted_objects_count_as_people_left_them(lab: Any):
    lab.fill(3)
    objects = list_objects(lab.registry, project="parts")
    nuts = [item["object_id"] for item in objects if item["category"] == "nut"]
    validate_objects(lab.registry, nuts[:2], "ann")
    edit_object(lab.registry, nuts[0], "ann", category="washer")
    delete_object(lab.registry, nuts[2], "ann")

    validated = build(lab, name="validated", filter={"is_validated": True})
    rest = build(lab, name="rest", filter={"is_validated": False})

    assert {(item.object_id, item.category) for image in validated.dataset.images for item in image.objects} == {
        (nuts[0], "washer"),
        (nuts[1], "nut"),
    }
    assert {item.category for image in rest.dataset.images for item in image.objects} == {"bolt"}


def test_labelled_images_without_objects_are_background_and_unlabelled_ones_are_not(lab: Any):
    lab.label({lab.draw("full.png", 0): [("nut", (1, 1, 20, 20), 0.9)], lab.draw("empty.png", 1): []})
    lab.label({lab.draw("pending.png", 2): []}, register=False)
    lab.label({lab.draw("negative.png", 3): []})

    with_background = build(lab)
    without = build(lab, name="without", include_empty=False)

    assert set(names(with_background)) == {"full.png", "empty.png", "negative.png"}
    assert sum(with_background.report.background.values()) == 2
    assert set(names(without)) == {"full.png"}


def test_an_image_whose_objects_the_filter_leaves_out_is_no_background(lab: Any):
    lab.label(
        {
            lab.draw("sure.png", 0): [("nut", (1, 1, 20, 20), 0.9)],
            lab.draw("unsure.png", 1): [("nut", (1, 1, 20, 20), 0.4)],
            lab.draw("bolt.png", 2): [("bolt", (1, 1, 20, 20), 0.9)],
        }
    )

    assert set(names(build(lab, filter={"min_confidence": 0.5}))) == {"sure.png", "bolt.png"}
    # An image of bolts shows no nut, so for a dataset of nuts it is background.
    assert set(names(build(lab, name="nuts", filter={"categories": ["nut"], "min_confidence": 0.5}))) == {
        "sure.png",
        "bolt.png",
    }


def test_nobody_has_confirmed_an_empty_image_for_a_dataset_of_validated_objects(lab: Any):
    lab.label({lab.draw("full.png", 0): [("nut", (1, 1, 20, 20), 0.9)], lab.draw("empty.png", 1): []})
    validate_objects(lab.registry, [item["object_id"] for item in list_objects(lab.registry)], "ann")

    assert set(names(build(lab, filter={"is_validated": True}))) == {"full.png"}


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"categories": ["washer"]}, "project 'parts' has 8 active objects, 0 of them are washer; loosen"),
        (
            {"categories": ["bolt"], "min_confidence": 0.7},
            "8 active objects, 4 of them are bolt, 0 of these have a confidence of at least 0.7",
        ),
        (
            {"min_confidence": 0.7, "is_validated": True},
            "8 active objects, 4 of these have a confidence of at least 0.7, 0 of these are validated",
        ),
    ],
)
def test_an_empty_selection_says_what_each_filter_left(lab: Any, chosen: dict[str, Any], sentence: str):
    lab.fill(4)

    with pytest.raises(UserError) as raised:
        build(lab, filter=chosen)

    assert sentence in str(raised.value)


def test_a_project_without_objects_an_unknown_project_and_an_unknown_class_are_named(lab: Any):
    with pytest.raises(UserError, match="project 'parts' has no objects yet"):
        build(lab)
    lab.fill(1)
    with pytest.raises(UserError, match=r"no class 'screw'; its classes are nut, bolt, washer"):
        build(lab, filter={"categories": ["nut", "screw"]})
    with pytest.raises(UserError, match="there is no project 'other'"):
        build(lab, project="other")


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


def test_content_is_unbuilt_until_the_newest_version_holds_it(lab: Any):
    def unbuilt() -> str | None:
        return unbuilt_content(lab.registry, lab.definition(), duplicate_distance=lab.distance)

    lab.fill(3)
    waiting = unbuilt()
    assert waiting == build(lab).dataset.content_hash
    assert unbuilt() is None

    delete_object(lab.registry, list_objects(lab.registry)[0]["object_id"], "ann")
    assert unbuilt() not in (None, waiting)
    with pytest.raises(UserError, match="selects no object"):
        unbuilt_content(lab.registry, lab.definition(filter={"is_validated": True}), duplicate_distance=6)


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
    assert sum(built.report.objects.values()) == 3
    assert find_leaks(lab.registry, built.dataset, lab.distance) == []


def test_a_planted_leak_is_found(lab: Any):
    first, second = _two_apart(lab)
    twin = lab.draw("twin.png", 1001)
    box = [("nut", (1.0, 1.0, 20.0, 20.0), 0.9)]
    for path, bits in {first: 0, second: 0xFFF, twin: 0b11}.items():
        lab.label({path: box}, hashes={path: f"{bits:064x}"})
    dataset = build(lab, split=HALVES).dataset
    rows = dataset.table.to_pylist()
    own = next(row["split"] for row in rows if row["file_path"] == str(twin))
    for row in rows:
        if row["file_path"] == str(twin):
            row["split"] = "val" if own != "val" else "train"
    leaky = FrozenDataset(
        dataset.dataset_id,
        dataset.version,
        dataset.content_hash,
        dataset.classes,
        dataset.definition,
        type(dataset.table).from_pylist(rows, schema=dataset.table.schema),
    )

    problems = find_leaks(lab.registry, leaky, lab.distance)
    verdict = no_split_leakage(lab.registry, leaky.to_table(), lab.distance)

    assert no_split_leakage(lab.registry, dataset.to_table(), lab.distance).passed
    assert not verdict.passed
    assert verdict.figures == {"images": 3, "wrong": len(problems), "first_wrong": problems[0]}
    assert any("differs in 2 bits" in problem and "twin.png" in problem for problem in problems)
    assert any(problem.startswith("group ") for problem in problems)


def test_a_category_in_one_split_only_is_reported(lab: Any):
    lab.fill(12)
    lab.label({lab.draw("washer.png", 500): [("washer", (1, 1, 20, 20), 0.9)]})

    assert build(lab, split={"train": 0.4, "val": 0.3, "test": 0.3}).report.one_sided == ("washer",)


def test_a_box_outside_its_image_is_left_out_and_reported(lab: Any):
    outside, partly = (96.0, 10.0, 5.0, 5.0), (90.0, 60.0, 9.0, 9.0)
    lab.label({lab.draw("a.png", 0): [("nut", (1, 1, 20, 20), 0.9), ("bolt", outside, 0.9), ("bolt", partly, 0.9)]})

    built = build(lab)

    (image,) = built.dataset.images
    assert {(item.category, item.bbox) for item in image.objects} == {("nut", (1, 1, 20, 20)), ("bolt", partly)}
    assert len(built.report.outside) == 1


def test_an_image_whose_file_now_holds_another_is_left_out_and_reported(lab: Any):
    path = lab.draw("a.png", 0)
    lab.label({path: [("nut", (1, 1, 20, 20), 0.9)]})
    lab.draw("a.png", 1, size=(80, 80))
    (new_source,) = lab.label({path: [("bolt", (2, 2, 20, 20), 0.9)]}).values()

    built = build(lab)

    assert [image.source_id for image in built.dataset.images] == [new_source]
    assert built.report.replaced == (str(path),)


def test_a_dataset_survives_the_lake(lab: Any, tmp_path: Path):
    lab.fill(4)
    dataset = build(lab).dataset
    lake = Lake(str(tmp_path / "lake"))

    lake.write("dataset", "parts", dataset.to_table())
    read = FrozenDataset.from_table(lake.read("dataset", "parts"))

    assert read.images == dataset.images
    assert (read.dataset_id, read.version, read.classes) == (dataset.dataset_id, "1.0", dataset.classes)
    assert read.definition == dataset.definition
    with pytest.raises(UserError, match="has not been built yet"):
        FrozenDataset.from_table(lake.read("dataset", "nothing"))


def test_selecting_sees_what_is_committed_while_another_process_writes(lab: Any):
    lab.fill(2)
    path = make_url(lab.registry.url).database
    writer = sqlite3.connect(str(path), isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE objects SET state = 'deleted'")
        with attach(lab.registry.url) as connection:
            table = select_objects(connection, lab.definition(), ["nut", "bolt", "washer"])
    finally:
        writer.execute("ROLLBACK")
        writer.close()

    assert table.num_rows == 4


@pytest.mark.parametrize("url", ["postgresql://al:secret@host/al", "sqlite://", "sqlite:///:memory:"])
def test_a_registry_that_is_no_sqlite_file_gets_a_clear_sentence(url: str):
    with pytest.raises(UserError, match="datasets need a registry in a SQLite file") as raised:
        attach(url).__enter__()
    assert "secret" not in str(raised.value)


def test_another_projects_objects_stay_out(lab: Any):
    from al_dagster.core.project import ProjectConfig
    from al_dagster.registry.projects import save_project

    save_project(lab.registry, ProjectConfig(name="other", classes=("nut",)))
    shared = lab.draw("shared.png", 0)
    lab.label({shared: [("nut", (1, 1, 20, 20), 0.9)]})
    lab.label({shared: [("nut", (30, 30, 20, 20), 0.9)]}, project="other")

    assert sum(build(lab).report.objects.values()) == 1
