from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from al_dagster.core.errors import UserError
from al_dagster.labelling import support
from al_dagster.labelling.intake import take_folder
from al_dagster.labelling.support import find_examples, load_examples
from al_dagster.registry.batches import unfinished_batches
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import AUTO, delete_objects, edit_object, validate_objects
from al_dagster.registry.tables import Object
from al_dagster.vision.fewshot import BACKGROUND, TURN_STEP

TURNS = 360 // TURN_STEP
MAX_PIXELS = 10_000_000


@pytest.fixture
def labelled(chain, home):
    """A batch that was labelled with the support folder, in a project whose examples are from now on validated ones."""
    chain.up_to("objects")
    chain.finish()
    chain.project = home.project(support=None, validated_examples=["disc", "bar"])
    return chain


def standing(chain, category: str) -> list[dict]:
    """The objects of a class, those of the first picture first."""
    return sorted(list_objects(chain.registry, category=category, limit=None), key=lambda row: row["frame_id"])


def validate(chain, *categories: str, count: int = 1) -> list[str]:
    """Have a person validate so many objects of each class; returns their ids."""
    chosen = [row["object_id"] for name in categories for row in standing(chain, name)[:count]]
    validate_objects(chain.registry, chosen, "ann")
    return chosen


def pictures(chain) -> list[Path]:
    return sorted({Path(row["file_path"]) for row in chain.last("frames").to_pylist()})


def load(chain):
    examples = find_examples(chain.project, chain.registry)
    return load_examples(examples, chain.project, chain.models, chain.masks, MAX_PIXELS)


def content_hash(chain) -> str:
    return find_examples(chain.project, chain.registry).content_hash


def test_a_project_without_examples_has_none(chain, home):
    assert find_examples(home.project(support=None), chain.registry) is None


def test_classes_are_labelled_by_their_validated_objects_without_a_support_folder(labelled, home, shapes, save_picture):
    validate(labelled, "disc", "bar")
    # In the new picture the bar is on the left, where the validated disc was.
    save_picture(home.path / "new" / "turned.png", shapes(77, (("bar", 45, 60), ("disc", 115, 60))))
    (labelled.key,) = take_folder(labelled.registry, home.path / "new", labelled.project, batch_size=256)
    labelled.tables.clear()
    labelled.up_to("objects")
    found = {row["category"]: row["bbox_x"] for row in list_objects(labelled.registry, batch_key=labelled.key)}
    assert set(found) == {"disc", "bar"}
    assert found["bar"] < 60 < found["disc"]
    labelled.finish()
    assert unfinished_batches(labelled.registry) == []


def test_a_class_with_no_example_at_all_is_one_sentence(labelled):
    validate(labelled, "disc")
    with pytest.raises(UserError, match=r"^class 'bar' is to be labelled by its validated objects, and none is valid"):
        labelled.classifications()


def test_objects_that_a_rule_validated_are_no_examples(labelled):
    (disc, bar) = validate(labelled, "disc", "bar")
    by_person = content_hash(labelled)
    other = standing(labelled, "disc")[1]["object_id"]
    with labelled.registry.session() as session:
        session.execute(
            update(Object)
            .where(Object.object_id == other)
            .values(is_validated=True, validated_by=AUTO, validated_at=standing(labelled, "bar")[0]["validated_at"])
        )
    found = find_examples(labelled.project, labelled.registry)
    assert {name: [row["object_id"] for row in rows] for name, rows in found.validated.items()} == {
        "disc": [disc],
        "bar": [bar],
    }
    assert found.content_hash == by_person
    with labelled.registry.session() as session:
        session.execute(update(Object).where(Object.object_id == disc).values(validated_by=AUTO))
    with pytest.raises(UserError, match=r"class 'disc'.* none is validated yet"):
        find_examples(labelled.project, labelled.registry)


def test_objects_that_were_deleted_or_belong_to_another_project_are_no_examples(labelled, home, add_reviewed):
    add_reviewed(labelled.registry, [(0.9, True)], project="other")
    disc, _ = validate(labelled, "disc", "bar")
    assert [row["object_id"] for row in find_examples(labelled.project, labelled.registry).validated["disc"]] == [disc]
    delete_objects(labelled.registry, [disc], "ann")
    with pytest.raises(UserError, match="class 'disc'"):
        find_examples(labelled.project, labelled.registry)


def test_an_object_is_an_example_of_the_class_that_a_person_gave_it(labelled):
    disc, bar = validate(labelled, "disc", "bar")
    edit_object(labelled.registry, disc, "ann", category="bar")
    labelled.project = labelled.project.model_copy(update={"validated_examples": ("bar",)})
    found = find_examples(labelled.project, labelled.registry)
    assert {row["object_id"] for row in found.validated["bar"]} == {disc, bar}


def test_the_content_changes_with_a_validation_an_edit_and_the_classes(labelled):
    first, _ = validate(labelled, "disc", "bar")
    seen = [content_hash(labelled)]
    second = standing(labelled, "disc")[1]
    validate_objects(labelled.registry, [second["object_id"]], "ann")
    seen.append(content_hash(labelled))
    box = tuple(second[column] for column in ("bbox_x", "bbox_y", "bbox_w", "bbox_h"))
    edit_object(labelled.registry, second["object_id"], "ann", bbox=(box[0] - 1, *box[1:]))
    seen.append(content_hash(labelled))
    edit_object(labelled.registry, first, "ann", category="bar")
    seen.append(content_hash(labelled))
    delete_objects(labelled.registry, [first], "ann")
    seen.append(content_hash(labelled))
    labelled.project = labelled.project.model_copy(update={"validated_examples": ("disc",)})
    seen.append(content_hash(labelled))
    assert len(set(seen)) == len(seen)
    assert all(len(value) == 32 for value in seen)


def test_the_content_does_not_change_with_the_order_or_by_running_again(labelled):
    chosen = validate(labelled, "disc", "bar", count=2)
    before = content_hash(labelled)
    first = labelled.classifications()
    assert (first.computed, content_hash(labelled)) == (2, before)
    for object_id in reversed(chosen):
        validate_objects(labelled.registry, [object_id], "bob")
    labelled.project = labelled.project.model_copy(update={"classes": ("bar", "disc")})
    assert content_hash(labelled) == before
    assert labelled.classifications().computed == 0
    labelled.objects("another run")
    assert content_hash(labelled) == before


def test_an_example_more_classifies_again(labelled):
    validate(labelled, "disc", "bar")
    first = labelled.classifications().table["classification_model"].to_pylist()
    validate(labelled, "disc", count=2)
    again = labelled.classifications()
    assert again.computed == 2
    assert not set(again.table["classification_model"].to_pylist()) & set(first)


def test_of_many_validated_objects_those_validated_last_are_examples(labelled, monkeypatch):
    monkeypatch.setattr(support, "VALIDATED_PER_CLASS", 1)
    first, second = (row["object_id"] for row in standing(labelled, "disc"))
    labelled.project = labelled.project.model_copy(update={"validated_examples": ("disc",)})
    for latest in (second, first):
        validate_objects(labelled.registry, [latest], "ann")
        (row,) = find_examples(labelled.project, labelled.registry).validated["disc"]
        assert row["object_id"] == latest


def test_validated_objects_go_the_way_of_any_object(labelled):
    disc, bar = validate(labelled, "disc", "bar")
    vectors = load(labelled).vectors
    assert set(vectors) == {"disc", "bar"}
    assert {array.shape for array in vectors.values()} == {(TURNS, labelled.models.embedder.dimension)}
    own = {row["object_id"]: row["embedding"] for row in labelled.last("embeddings").to_pylist()}
    assert np.allclose(vectors["disc"][0], own[disc], atol=1e-6)
    assert np.allclose(vectors["bar"][0], own[bar], atol=1e-6)


def test_an_object_whose_box_was_moved_off_its_mask_is_cut_out_by_its_box(labelled):
    disc, _ = validate(labelled, "disc", "bar")
    before = load(labelled).vectors["disc"]
    edit_object(labelled.registry, disc, "ann", bbox=(60.0, 5.0, 20.0, 20.0))
    after = load(labelled).vectors["disc"]
    assert after.shape == before.shape
    assert not np.allclose(after[0], before[0], atol=0.1)


def test_an_object_that_a_person_corrected_is_an_example_without_being_validated_apart(labelled):
    validate(labelled, "disc", "bar")
    bar = standing(labelled, "bar")[-1]["object_id"]
    edit_object(labelled.registry, bar, "ann", category="disc")
    examples = find_examples(labelled.project, labelled.registry).validated
    assert bar in {row["object_id"] for row in examples["disc"]}


def test_validated_objects_whose_image_is_gone_are_passed_over(labelled):
    validate(labelled, "disc", "bar", count=2)
    both = load(labelled).vectors["disc"]
    assert len(both) == 2 * TURNS
    pictures(labelled)[0].unlink()
    left = load(labelled).vectors["disc"]
    assert len(left) == TURNS
    assert any(np.array_equal(left, both[half]) for half in (slice(TURNS), slice(TURNS, None)))


def test_where_no_image_of_the_validated_objects_is_left_it_is_one_sentence(labelled):
    validate(labelled, "disc", "bar", count=2)
    for path in pictures(labelled):
        path.write_bytes(b"no picture any more")
    with pytest.raises(UserError, match=r"^no image of the validated objects of class 'disc' can be read any more$"):
        load(labelled)


def test_pictures_and_validated_objects_of_a_class_are_examples_together(labelled, home):
    validate(labelled, "disc", count=2)
    labelled.project = home.project(validated_examples=["disc"])
    assert {name: len(array) for name, array in load(labelled).vectors.items()} == {"disc": 5 * TURNS, "bar": 3 * TURNS}
    for path in pictures(labelled):
        path.unlink()
    assert {name: len(array) for name, array in load(labelled).vectors.items()} == {"disc": 3 * TURNS, "bar": 3 * TURNS}


def test_a_class_of_the_folder_needs_no_validated_object(labelled, home):
    labelled.project = home.project(validated_examples=["disc", "bar"])
    result = labelled.classifications()
    assert Counter(result.table["label"].to_pylist()) == {"disc": 2, "bar": 2}


def test_the_pictures_of_nothing_count_beside_validated_objects(labelled, home, tmp_path, shapes, save_picture):
    validate(labelled, "disc")
    save_picture(tmp_path / "support" / "bar" / "0.png", shapes(5, (("bar", 80, 60),))[34:86, 54:106])
    labelled.project = home.project(support=tmp_path / "support", validated_examples=["disc"])
    without = content_hash(labelled)
    save_picture(tmp_path / "support" / BACKGROUND / "0.png", shapes(6, (("disc", 70, 60),))[30:90, 66:110])
    assert content_hash(labelled) != without
    assert load(labelled).background is not None


def test_an_example_is_not_cut_from_a_file_that_was_overwritten(labelled, shapes, save_picture):
    validate(labelled, "disc", "bar", count=2)
    both = load(labelled).vectors["disc"]
    save_picture(pictures(labelled)[0], shapes(77, (("bar", 45, 60), ("disc", 115, 60))))
    left = load(labelled).vectors["disc"]
    assert len(left) == TURNS
    assert any(np.array_equal(left, both[half]) for half in (slice(TURNS), slice(TURNS, None)))


def test_an_example_is_cut_from_any_file_that_still_holds_its_image(labelled, home):
    validate(labelled, "disc", "bar", count=2)
    both = load(labelled).vectors["disc"]
    for path in pictures(labelled):
        (home.path / "copies").mkdir(exist_ok=True)
        (home.path / "copies" / path.name).write_bytes(path.read_bytes())
    (labelled.key,) = take_folder(labelled.registry, home.path / "copies", labelled.project, batch_size=256)
    tables = dict(labelled.tables)
    labelled.tables.clear()
    labelled.sources()
    labelled.tables = tables
    for path in pictures(labelled):
        path.write_bytes(b"no picture any more")
    np.testing.assert_array_equal(load(labelled).vectors["disc"], both)


def test_an_example_on_a_later_page_is_cut_from_that_page(chain, home, shapes):
    images = home.path / "images"
    drawn = [Image.fromarray(np.asarray(Image.open(path).convert("RGB"))) for path in sorted(images.iterdir())]
    for path in images.iterdir():
        path.unlink()
    drawn[0].save(images / "scan.tif", save_all=True, append_images=drawn[1:])
    chain.key = take_folder(chain.registry, images, chain.project, batch_size=256)[-1]
    chain.up_to("objects")
    chain.project = home.project(support=None, validated_examples=["disc", "bar"])
    second = chain.last("frames")["frame_id"].to_pylist()[1]
    chosen = [row["object_id"] for row in list_objects(chain.registry, limit=None) if row["frame_id"] == second]
    assert len(chosen) == 2
    validate_objects(chain.registry, chosen, "ann")
    own = {row["object_id"]: row["embedding"] for row in chain.last("embeddings").to_pylist()}
    vectors = load(chain).vectors
    for object_id in chosen:
        assert any(np.allclose(array[0], own[object_id], atol=1e-6) for array in vectors.values())
