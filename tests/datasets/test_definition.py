from pathlib import Path

import pytest
from pydantic import ValidationError

from al_dagster.core.errors import UserError
from al_dagster.datasets.definition import DatasetDefinition, load_definition, parse_definition


def test_a_short_definition_has_the_documented_defaults():
    definition = parse_definition({"name": "parts", "project": "parts"}, "test")

    assert definition.split.model_dump() == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert definition.formats == ("yolo", "yolo-seg", "coco")
    assert definition.include_empty
    assert not definition.auto_build
    assert not definition.auto_train
    assert definition.training.model == "yolo11n.yaml"


def test_a_definition_file_is_read_with_its_name_as_default(tmp_path: Path):
    path = tmp_path / "small-parts.yaml"
    path.write_text(
        "project: parts\nfilter: {categories: 'nut, bolt, nut,', min_confidence: 0.5}\n"
        "split: {train: 0.5, val: 0.25, test: 0.25}\nformats: [coco, yolo]\ntraining: {epochs: 3}\n"
    )

    definition = load_definition(path)

    assert definition.name == "small-parts"
    assert definition.filter.categories == ("nut", "bolt")
    assert definition.formats == ("yolo", "coco")
    assert definition.training.epochs == 3


def test_a_definition_survives_json():
    definition = DatasetDefinition.model_validate(
        {"name": "a", "project": "p", "filter": {"categories": ["nut"], "is_validated": True}, "auto_build": True}
    )

    assert DatasetDefinition.model_validate(definition.model_dump(mode="json")) == definition


@pytest.mark.parametrize("name", ["parts", "a", "0", "nuts_and-bolts.v2", "x" * 64])
def test_names_that_a_folder_and_a_partition_can_bear_are_taken(name: str):
    assert DatasetDefinition(name=name, project="p").name == name


@pytest.mark.parametrize("name", ["", "a,b", "a...b", "a/b", "..", ".hidden", "a\nb", "a\x00", "너트", "x" * 65, "-a"])
def test_other_names_are_refused(name: str):
    with pytest.raises(ValidationError, match="cannot name a dataset"):
        DatasetDefinition(name=name, project="p")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("project: p\nfilters: {}\n", "unknown key 'filters'; the keys are name, project, filter, split"),
        ("project: p\nfilter: {category: nut}\n", "unknown key 'filter.category'; the keys are categories, min_conf"),
        ("project: p\ntraining: {epoch: 1}\n", "unknown key 'training.epoch'; the keys are model, epochs"),
        ("name: a\n", "key 'project' is missing"),
        ("project: p\nsplit: {train: 0.8, val: 0.3, test: 0.1}\n", "must sum to 1, and sum to 1.2"),
        ("project: p\nsplit: {train: 0.0, val: 0.5, test: 0.5}\n", "split.train: Input should be greater than 0"),
        ("project: p\nfilter: {min_confidence: 2}\n", "filter.min_confidence: Input should be less than or equal"),
        ("project: p\nfilter: {categories: ' , '}\n", "filter.categories: name at least one class"),
        ("project: p\nformats: [voc]\n", "formats.0: Input should be 'yolo', 'yolo-seg' or 'coco'"),
        ("project: p\nformats: []\n", "formats: "),
        ("project: p\nauto_train: true\n", "auto_train: only versions that auto_build makes are trained on"),
        ("- a\n- b\n", "expected keys and values"),
        ("project: [\n", "is not valid YAML in line 2"),
    ],
)
def test_a_wrong_file_gets_one_clear_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "parts.yaml"
    path.write_text(text)

    with pytest.raises(UserError) as raised:
        load_definition(path)

    assert str(raised.value).startswith(str(path))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read"):
        load_definition(tmp_path / "nothing.yaml")
