import shutil

import pyarrow as pa
import pytest

from al_dagster.core.errors import UserError


def labels_by_side(chain) -> dict[str, set[str]]:
    x = {row["object_id"]: row["bbox_x"] for row in chain.last("detections").to_pylist()}
    sides: dict[str, set[str]] = {"left": set(), "right": set()}
    for row in chain.last("classifications").to_pylist():
        sides["left" if x[row["object_id"]] < 80 else "right"].add(row["label"])
    return sides


def test_objects_are_named_by_the_examples(chain):
    result = chain.up_to("classifications")
    assert labels_by_side(chain) == {"left": {"disc"}, "right": {"bar"}}
    assert result.figures == {"classifications": 4, "unknown": 0, "label: bar": 2, "label: disc": 2}


def test_without_a_support_set_nothing_is_classified(chain):
    chain.up_to("embeddings")
    chain.project = chain.project.model_copy(update={"support": None})
    assert chain.classifications().table.num_rows == 0


def test_objects_are_not_classified_again(chain):
    first = chain.up_to("classifications")
    again = chain.classifications()
    assert (again.computed, again.reused) == (0, 2)
    assert again.table.equals(first.table)


def test_a_changed_example_classifies_again(chain, tmp_path):
    chain.up_to("embeddings")
    folder = shutil.copytree(chain.project.support, tmp_path / "support")
    chain.project = chain.project.model_copy(update={"support": folder})
    first = chain.classifications().table
    (folder / "disc" / "0.png").unlink()
    again = chain.classifications()
    assert again.computed == 2
    assert again.table["classification_model"].to_pylist() != first["classification_model"].to_pylist()


def test_a_renamed_copy_of_the_same_examples_is_the_same_support_set_wherever_it_lies(chain, tmp_path):
    chain.up_to("classifications")
    folder = shutil.copytree(chain.project.support, tmp_path / "elsewhere")
    chain.project = chain.project.model_copy(update={"support": folder})
    assert chain.classifications().computed == 0


def test_a_hidden_file_among_the_examples_changes_nothing(chain, tmp_path):
    folder = shutil.copytree(chain.project.support, tmp_path / "support")
    chain.project = chain.project.model_copy(update={"support": folder})
    chain.up_to("classifications")
    (folder / "disc" / ".DS_Store").write_bytes(b"x")
    assert chain.classifications().computed == 0


def test_below_the_threshold_an_object_is_unknown(chain):
    chain.up_to("embeddings")
    chain.project = chain.project.model_copy(
        update={"classification": chain.project.classification.model_copy(update={"threshold": 0.999})}
    )
    result = chain.classifications()
    assert set(result.table["label"].to_pylist()) == {"Unknown"}
    assert result.figures["unknown"] == 4


def test_a_missing_support_folder_is_one_clear_sentence(chain, tmp_path):
    chain.project = chain.project.model_copy(update={"support": tmp_path / "nowhere"})
    with pytest.raises(UserError, match="there is no such folder of example pictures"):
        chain.up_to("classifications")


def test_a_class_folder_without_readable_pictures_is_one_clear_sentence(chain, tmp_path):
    folder = shutil.copytree(chain.project.support, tmp_path / "support")
    for path in (folder / "disc").iterdir():
        path.write_bytes(b"text")
    chain.project = chain.project.model_copy(update={"support": folder})
    with pytest.raises(UserError, match="has no readable picture"):
        chain.up_to("classifications")


def test_of_two_readings_of_the_same_pixels_one_is_named(chain):
    chain.up_to("detections")
    detections = chain.last("detections")
    half = {**detections.to_pylist()[0], "object_id": "obj_half"}
    half["bbox_h"] = round(half["bbox_h"] / 2)
    chain.tables["detections"] = pa.concat_tables([detections, pa.Table.from_pylist([half], schema=detections.schema)])
    chain.mask_table()
    chain.embeddings()
    result = chain.classifications()
    assert result.table.num_rows == 5
    labels = {row["object_id"]: row["label"] for row in result.table.to_pylist()}
    assert labels.pop("obj_half") == "Unknown"
    assert "Unknown" not in labels.values()
