from pathlib import Path
from typing import Any

import pytest

from al_dagster.core.errors import UserError
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import delete_objects, edit_object, validate_objects
from al_dagster.registry.tables import FrameLabel, Object

NUT = ("nut", (1.0, 1.0, 20.0, 20.0), 0.9)
BOLT = ("bolt", (30.0, 30.0, 20.0, 20.0), 0.9)
FAINT = ("bolt", (30.0, 30.0, 20.0, 20.0), 0.4)


def names(built: Any) -> set[str]:
    return {Path(image.file_path).name for image in built.dataset.images}


def left_out(built: Any) -> list[str]:
    return [item.sentence for item in built.report.left_out]


def objects(lab: Any, path: Path) -> list[str]:
    """Ids of the active objects of a file, nut first."""
    found = [item for item in list_objects(lab.registry, limit=None) if item["frame_id"] == lab.frame(path)]
    return [item["object_id"] for item in sorted(found, key=lambda item: item["category"], reverse=True)]


def test_labelled_images_without_objects_are_background_and_unlabelled_ones_are_not(lab: Any):
    lab.label({lab.draw("full.png", 0): [NUT], lab.draw("empty.png", 1): []})
    lab.label({lab.draw("pending.png", 2): []}, register=False)
    lab.label({lab.draw("negative.png", 3): []})

    with_background = lab.build()
    without = lab.build(name="without", include_empty=False)

    assert names(with_background) == {"full.png", "empty.png", "negative.png"}
    assert sum(with_background.report.background.values()) == 2
    assert left_out(with_background) == ["1 frame not labelled: waits to be labelled (1)"]
    assert names(without) == {"full.png"}
    assert left_out(without)[1:] == ["2 frames without objects"]


def test_a_frame_that_failed_in_a_labelled_batch_is_no_background_and_is_counted_with_its_error(lab: Any):
    gone = [lab.draw(f"gone{seed}.png", seed) for seed in range(3)]
    dark = lab.draw("dark.png", 8)
    lab.label({lab.draw("full.png", 9): [NUT], **{key: [] for key in [*gone, dark]}})
    with lab.registry.session() as session:
        session.query(FrameLabel).filter(FrameLabel.frame_id.in_([lab.frame(path) for path in [*gone, dark]])).delete()
    for path in gone:
        lab.outcome(path, error="has vanished")
    lab.outcome(dark, error="one mask failed")

    built = lab.build()

    assert names(built) == {"full.png"}
    assert left_out(built) == ["4 frames not labelled: has vanished (3), one mask failed (1)"]
    assert set(built.report.left_out[0].examples) == {str(path) for path in [*gone, dark]}


def test_objects_of_a_frame_that_was_never_labelled_stay_out_and_of_an_earlier_success_go_in(lab: Any):
    failed_later, never = lab.draw("later.png", 0), lab.draw("never.png", 1)
    lab.label({failed_later: [NUT], never: [NUT]})
    lab.outcome(failed_later, error="has vanished")
    with lab.registry.session() as session:
        session.query(FrameLabel).filter_by(frame_id=lab.frame(never)).delete()

    built = lab.build()

    assert names(built) == {"later.png"}
    assert left_out(built) == ["1 frame not labelled: waits to be labelled (1)"]


def labelled_for(lab: Any, classes: list[str], labels: dict[Path, Any]) -> None:
    """Label files in a run that was asked for these classes."""
    lab.label(labels)
    for path in labels:
        lab.outcome(path, classes=classes)


def test_a_frame_that_was_not_searched_for_a_class_that_others_were_searched_for_is_left_out(lab: Any):
    old, empty, marked, new = (lab.draw(f"{name}.png", i) for i, name in enumerate(("old", "empty", "marked", "new")))
    labelled_for(lab, ["nut"], {old: [NUT], empty: [], marked: []})
    labelled_for(lab, ["nut", "bolt"], {new: [NUT, BOLT]})
    lab.mark_background(marked)

    every = lab.build()
    nuts = lab.build(name="nuts", filter={"categories": ["nut"]})
    bolts = lab.build(name="bolts", filter={"categories": ["bolt"]})
    labelled_for(lab, ["nut", "bolt"], {lab.draw("more.png", 9): [NUT]})
    lab.outcome(old, classes=["bolt", "nut"])
    lab.outcome(empty, classes=["bolt", "nut"], error="has vanished")
    again = lab.build()

    assert names(every) == names(bolts) == {"marked.png", "new.png"}
    assert left_out(every) == left_out(bolts) == ["2 frames not searched for all classes: bolt (2)"]
    assert names(nuts) == {"old.png", "empty.png", "marked.png", "new.png"}
    assert names(again) == {"old.png", "marked.png", "new.png", "more.png"}
    assert left_out(again) == ["1 frame not searched for all classes: bolt (1)"]


def test_a_class_that_only_people_gave_takes_no_frame_away(lab: Any):
    one, two = lab.draw("one.png", 0), lab.draw("two.png", 1)
    labelled_for(lab, ["nut"], {one: [NUT], two: [NUT]})
    edit_object(lab.registry, objects(lab, one)[0], "ann", category="washer")

    built = lab.build()

    assert (names(built), left_out(built)) == ({"one.png", "two.png"}, [])
    assert sum(built.report.categories["washer"].values()) == 1


def test_an_unsure_frame_is_no_background_unless_a_person_marked_it_and_goes_in_with_objects(lab: Any):
    marked, unsure, found = (lab.draw(f"{name}.png", seed) for seed, name in enumerate(("marked", "unsure", "found")))
    lab.label({marked: [], unsure: [], found: [NUT]})
    for path in (marked, unsure, found):
        lab.outcome(path, is_unsure=True)
    lab.mark_background(marked)

    built = lab.build()

    assert names(built) == {"marked.png", "found.png"}
    assert left_out(built) == ["1 frame unsure"]


def test_a_person_may_mark_what_was_never_labelled_but_not_against_an_active_object(lab: Any):
    pending, taken = lab.draw("pending.png", 0), lab.draw("taken.png", 1)
    lab.label({pending: []}, register=False)
    lab.label({taken: [NUT], lab.draw("full.png", 2): [NUT]})
    lab.mark_background(pending)
    with pytest.raises(UserError, match="has objects"):
        lab.mark_background(taken)

    built = lab.build(filter={"categories": ["nut"]})

    assert names(built) == {"pending.png", "taken.png", "full.png"}
    assert sum(built.report.background.values()) == 1
    assert sum(built.report.objects.values()) == 2


def test_an_image_with_an_object_that_min_confidence_drops_is_left_out_and_counted(lab: Any):
    lab.label({lab.draw("sure.png", 0): [NUT, BOLT], lab.draw("mixed.png", 1): [NUT, FAINT]})
    lab.label({lab.draw("faint.png", 2): [FAINT], lab.draw("bolts.png", 3): [BOLT]})

    built = lab.build(filter={"min_confidence": 0.5})
    nuts = lab.build(name="nuts", filter={"categories": ["nut"], "min_confidence": 0.5})

    assert names(built) == {"sure.png", "bolts.png"}
    assert left_out(built) == ["2 frames below min_confidence", "2 objects below min_confidence"]
    # An image of bolts shows no nut, so for a dataset of nuts it is background, however faint the bolt.
    assert names(nuts) == {"sure.png", "mixed.png", "faint.png", "bolts.png"}


@pytest.mark.parametrize(("on_dropped", "ignored"), [("keep", 0), ("ignore", 2)])
def test_an_image_with_dropped_objects_is_kept_when_asked_for(lab: Any, on_dropped: str, ignored: int):
    lab.label({lab.draw("mixed.png", 0): [NUT, FAINT], lab.draw("faint.png", 1): [FAINT]})

    built = lab.build(filter={"min_confidence": 0.5, "on_dropped": on_dropped})

    assert {row["file_path"].rpartition("/")[2] for row in built.dataset.table.to_pylist()} == {
        "mixed.png",
        "faint.png",
    }
    assert (built.report.ignored, sum(built.report.objects.values())) == (ignored, 1)
    assert sum(built.report.background.values()) == 1
    assert left_out(built) == ["2 objects below min_confidence"]
    assert [row["category"] for row in built.dataset.table.to_pylist() if row["is_ignored"]] == ["bolt"] * ignored


def test_min_confidence_is_calibrated_where_the_detector_is_and_says_where_it_is_not(lab: Any):
    paths = [lab.draw(f"{seed}.png", seed) for seed in range(3)]
    lab.label({key: [NUT] for key in paths})
    calibrated = dict(zip(paths, (0.3, 0.7, None), strict=True))
    with lab.registry.session() as session:
        for path, value in calibrated.items():
            session.query(Object).filter_by(frame_id=lab.frame(path)).update({"calibrated_confidence": value})

    built = lab.build(filter={"min_confidence": 0.5})

    assert names(built) == {"1.png", "2.png"}
    assert built.report.raw_confidence == {"model@1": 1}
    said = "min_confidence compares raw confidence of model@1 (1 object): not calibrated"
    assert built.report.confidence_sentence == said
    assert lab.build(name="all").report.confidence_sentence == ""


def test_validated_objects_pass_any_min_confidence(lab: Any):
    path = lab.draw("mixed.png", 0)
    lab.label({path: [NUT, FAINT]})
    validate_objects(lab.registry, objects(lab, path), "ann")

    built = lab.build(filter={"min_confidence": 0.95})

    assert sum(built.report.objects.values()) == 2
    assert built.report.raw_confidence == {}


def test_an_image_whose_objects_are_not_all_validated_is_left_out_of_a_validated_dataset(lab: Any):
    done, half, none = (lab.draw(f"{name}.png", seed) for seed, name in enumerate(("done", "half", "none")))
    lab.label({key: [NUT, BOLT] for key in (done, half, none)})
    validate_objects(lab.registry, [*objects(lab, done), objects(lab, half)[0]], "ann")

    built = lab.build(filter={"is_validated": True})
    nuts = lab.build(name="nuts", filter={"is_validated": True, "categories": ["nut"]})
    kept = lab.build(name="kept", filter={"is_validated": True, "on_dropped": "keep"})
    ignored = lab.build(name="ignored", filter={"is_validated": True, "on_dropped": "ignore"})

    assert names(built) == {"done.png"}
    assert left_out(built) == ["2 frames not all reviewed", "3 objects not validated"]
    assert names(nuts) == {"done.png", "half.png"}
    # Of an image of which nothing was reviewed nobody knows that the rest is background.
    assert names(kept) == names(ignored) == {"done.png", "half.png"}
    assert (kept.report.ignored, ignored.report.ignored) == (0, 1)


def test_validated_edited_and_deleted_objects_count_as_people_left_them(lab: Any):
    first, second, third = (lab.draw(f"{seed}.png", seed) for seed in range(3))
    lab.label({first: [NUT, BOLT], second: [NUT], third: [NUT, BOLT]})
    nuts = [objects(lab, path)[0] for path in (first, second, third)]
    validate_objects(lab.registry, [*objects(lab, first), nuts[1]], "ann")
    edit_object(lab.registry, nuts[0], "ann", category="washer")
    validate_objects(lab.registry, [nuts[0]], "ann")
    delete_objects(lab.registry, [nuts[2]], "ann")

    validated = lab.build(name="validated", filter={"is_validated": True})
    rest = lab.build(name="rest", filter={"is_validated": False})

    assert sorted(item.category for image in validated.dataset.images for item in image.objects) == [
        "bolt",
        "nut",
        "washer",
    ]
    assert {item.category for image in rest.dataset.images for item in image.objects} == {"bolt"}
    assert left_out(rest) == ["2 frames with validated objects", "3 objects validated"]


def test_a_background_of_a_validated_dataset_was_marked_or_cleared_by_a_person(lab: Any):
    full, empty, marked, cleared, other = (
        lab.draw(f"{name}.png", seed) for seed, name in enumerate(("full", "empty", "marked", "cleared", "other"))
    )
    lab.label({full: [NUT], empty: [], marked: [], cleared: [NUT, BOLT], other: [BOLT]})
    validate_objects(lab.registry, objects(lab, full), "ann")
    lab.mark_background(marked)
    for object_id in [*objects(lab, cleared), *objects(lab, other)]:
        delete_objects(lab.registry, [object_id], "ann")

    built = lab.build(filter={"is_validated": True})
    nuts = lab.build(name="nuts", filter={"is_validated": True, "categories": ["nut"]})
    none = lab.build(name="none", filter={"is_validated": True}, include_empty=False)

    assert names(built) == {"full.png", "marked.png", "cleared.png", "other.png"}
    assert left_out(built) == ["1 frame without objects, which nobody confirmed"]
    # That somebody deleted a bolt says nothing about nuts.
    assert names(nuts) == {"full.png", "marked.png", "cleared.png"}
    assert names(none) == {"full.png"}


@pytest.mark.parametrize(
    "box",
    [
        (96.0, 10.0, 5.0, 5.0),
        (-30.0, 10.0, 5.0, 5.0),
        (95.5, 10.0, 5.0, 5.0),
        (10.0, -4.5, 5.0, 5.0),
        (95.01, 10.0, 1.0, 30.0),
    ],
)
def test_a_box_that_shows_less_than_a_pixel_of_the_image_is_left_out_and_counted(lab: Any, box: Any):
    partly, alone = (90.0, 60.0, 9.0, 9.0), lab.draw("alone.png", 1)
    lab.label({lab.draw("a.png", 0): [NUT, ("bolt", box, 0.9), ("bolt", partly, 0.9)], alone: [("bolt", box, 0.9)]})

    built = lab.build()

    (image,) = built.dataset.images
    assert {(item.category, item.bbox) for item in image.objects} == {("nut", NUT[1]), ("bolt", partly)}
    # Something is there, so that the other image is no background either.
    assert left_out(built) == [
        "1 frame with a box outside the image or under a pixel",
        "2 objects with a box outside the image or under a pixel",
    ]


def test_a_box_of_a_pixel_goes_in(lab: Any):
    lab.label({lab.draw("a.png", 0): [("nut", (95.0, 10.0, 1.0, 1.0), 0.9)]})

    assert sum(lab.build().report.objects.values()) == 1


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
        ({"min_confidence": 0.7}, "no object that can be used: left out: 4 frames below min_confidence; 4 objects"),
    ],
)
def test_an_empty_selection_says_what_each_filter_left(lab: Any, chosen: dict[str, Any], sentence: str):
    lab.fill(4)

    with pytest.raises(UserError) as raised:
        lab.build(filter=chosen)

    assert sentence in str(raised.value)


def test_a_project_without_objects_an_unknown_project_and_an_unknown_class_are_named(lab: Any):
    with pytest.raises(UserError, match="project 'parts' has no objects yet"):
        lab.build()
    lab.fill(1)
    with pytest.raises(UserError, match=r"no class 'screw'; its classes are nut, bolt, washer"):
        lab.build(filter={"categories": ["nut", "screw"]})
    with pytest.raises(UserError, match="there is no project 'other'"):
        lab.build(project="other")
