import re
import unicodedata
from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.project import ProjectConfig, load_project, load_yaml, parse_project


@pytest.fixture
def written(tmp_path: Path):
    def write(content: str | bytes, folder: str = "parts") -> Path:
        path = tmp_path / folder / "project.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def sentence(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_project(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_short_file_takes_its_name_from_the_folder_and_the_rest_from_the_defaults(written):
    config = load_project(written("classes: [nut, bolt]"))
    assert config == ProjectConfig(name="parts", classes=("nut", "bolt"))
    assert (config.profile, config.detection.confidence, config.classification.top_k) == ("embedded", None, 3)


def test_a_whole_file_is_read(written):
    path = written(
        "name: screws\ndescription: On a table\nclasses: [nut]\nprofile: embedded\nsupport: examples\n"
        "detection: {confidence: 0.4, nms_iou: 0.6}\nclassification: {threshold: 0.2, top_k: 1, min_margin: 0.1}\n"
    )
    config = load_project(path)
    assert (config.name, config.support, config.detection.nms_iou) == ("screws", path.parent / "examples", 0.6)
    assert ProjectConfig.model_validate_json(config.model_dump_json()) == config


def test_a_table_of_groups_is_anchored_at_the_file_and_survives_the_registry(written):
    path = written("classes: [nut]\ngrouping: {by: column, column: groups.csv, recordings: false}")
    grouping = load_project(path).grouping
    assert (grouping.by, grouping.column, grouping.recordings) == ("column", path.parent / "groups.csv", False)
    config = load_project(path)
    assert ProjectConfig.model_validate_json(config.model_dump_json()) == config


def test_an_absolute_support_folder_stays(written, tmp_path):
    assert load_project(written(f"classes: [nut]\nsupport: {tmp_path}/x")).support == tmp_path / "x"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("nut, bolt", ("nut", "bolt")),
        (" nut ,, bolt ,", ("nut", "bolt")),
        (["nut", "", "  ", "bolt", "nut"], ("nut", "bolt")),
        (["hex  nut", "hex nut"], ("hex nut",)),
        (["나사", "nut,bolt"], ("나사", "nut,bolt")),
    ],
)
def test_empty_and_repeated_classes_are_dropped_and_the_order_kept(given, kept):
    assert parse_project({"name": "p", "classes": given}, "options").classes == kept


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected keys and values such as 'classes: [nut, bolt]'"),
        ("- nut", "expected keys and values such as 'classes: [nut, bolt]'"),
        ("description: x", "key 'classes' is missing"),
        ("classes: []", "classes: Tuple should have at least 1 item"),
        ("classes: ['', ' ']", "classes: Tuple should have at least 1 item"),
        ("classes: [yes]", "classes.0: Input should be a valid string"),
        (
            "classes: [a]\nclases: [b]",
            "unknown key 'clases'; the keys are name, description, classes, profile, models, prompts",
        ),
        (
            "classes: [a]\ndetection: {conf: 0.5}",
            "unknown key 'detection.conf'; the keys are confidence, nms_iou",
        ),
        ("classes: [a]\ndetection: {confidence: 1.5}", "detection.confidence: Input should be less than or equal to 1"),
        (
            "classes: [a, Object]",
            "classes: 'Object' is what al_dagster calls a thing it has no name for; call the class",
        ),
        ("classes: unknown", "classes: 'unknown' is what al_dagster calls a thing it has no name for; call the class"),
        ("classes: [a]\nmodels: {weights: w.pt}", "models: weights 'w.pt' are for the detector yolo alone: name it as"),
        ("classes: [a]\nprofile: magic", "profile: Input should be 'embedded' or 'foundation'"),
        ("classes: [a]\nmodels: {embeder: x}", "unknown key 'models.embeder'; the keys are detector, segmenter,"),
        (
            "classes: [a]\nprompts: {a: {synonym: b}}",
            "unknown key 'prompts.a.synonym'; the keys are synonyms, negatives",
        ),
        ("classes: [a]\nprompts: {b: {}}", "prompts: 'b' is not among the classes (a)"),
        (
            "classes: [a]\ngrouping: {by: pattern}",
            "grouping: 'by: pattern' needs the key pattern too, such as pattern: ",
        ),
        ("classes: [a]\ngrouping: {by: column}", "grouping: 'by: column' needs the key column too"),
        ("classes: [a]\ngrouping: {pattern: '{sequence}'}", "grouping: pattern is for 'by: pattern' alone, and it is"),
        ("classes: [a]\ngrouping: {by: folder, gap_seconds: 5}", "grouping: gap_seconds is for 'by: time' alone"),
        ("classes: [a]\ngrouping: folder", "grouping: expected keys and values; the keys are by, pattern, gap_seconds"),
        ("classes: [a]\nprompts: {a: [b]}", "prompts.a: expected keys and values; the keys are synonyms, negatives"),
        ("classes: [a]\ngrouping: {by: time, gap_seconds: 0}", "grouping.gap_seconds: Input should be greater than 0"),
        ("classes: [a]\ngrouping: {by: pattern, pattern: '{n}'}", "grouping.pattern: '{n}' must hold {sequence} once"),
        (
            "classes: [a]\ngrouping: {by: pattern, pattern: '{sequence}_{x}'}",
            "grouping.pattern: '{sequence}_{x}' holds '{x}': only {sequence} and {n} stand for something",
        ),
        (
            "classes: [a]\ngrouping: {by: name}",
            "grouping.by: Input should be 'content', 'folder', 'pattern', 'time' or",
        ),
        ("classes: [a]\nvalidated_examples: b", "validated_examples: 'b' is not among the classes (a)"),
        ("classes: [a]\nname: .ab", "name: '.ab' cannot name a project: use printable characters"),
        ("classes: [a\nname: b", "is not valid YAML in line 2"),
        ("classes: [a]\ndescription: 2026-13-45", "holds a value that is not valid YAML: month must be in 1..12"),
        (b"classes: [\xff]", "is not UTF-8 text"),
        ("classes: [a]\nx: \x00", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_answered_with_one_sentence(written, content, said):
    assert sentence(written(content)).startswith(said)


def test_a_folder_whose_name_cannot_be_a_project_says_so(written):
    assert "'.photos' cannot name a project" in sentence(written("classes: [a]", folder=".photos"))


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    with pytest.raises(UserError, match=re.escape("none.yaml: cannot be read: No such file or directory")):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is not a regular file"):
        load_yaml(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["a", "A-1_b.c", "0", "x" * 64, "a-", "a--b", "a...b", "나사", "bolts M8", "a/b", "a,b", "🔩", "나사 " * 4 + "x"],
)
def test_names_that_fit_are_taken(name):
    assert ProjectConfig(name=name, classes=("a",)).name == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "-a", ".a", " a", "a ", "a\n", "a\tb", "a\u202eb", "a\udcff", "a\x00", "x" * 65, "나" * 40, "🔩" * 17],
)
def test_names_that_steer_a_terminal_or_are_too_long_for_a_file_are_refused(name):
    with pytest.raises(UserError, match="cannot name a project"):
        parse_project({"name": name, "classes": ["a"]}, "options")


def test_a_decomposed_name_is_that_of_the_same_project():
    assert ProjectConfig(name=unicodedata.normalize("NFD", "나사 é"), classes=("a",)).name == "나사 é"


def test_yaml_cannot_build_objects(tmp_path):
    (tmp_path / "a.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("classes: " + "[" * 20_000, "is nested too deep"),
        ("classes: " + "[" * 60 + "]" * 60, "is nested too deep"),
        ('classes: ["\\ud800"]', "half a character"),
        ("classes: [nut]\ntop_k: 12345678901234567890123", "a number of 23 digits"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "holds too many values",
        ),
    ],
)
def test_a_file_that_yaml_allows_and_nothing_can_hold_is_answered_with_one_sentence(tmp_path, text, reason):
    path = tmp_path / "project.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_project(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)


def test_a_name_that_is_given_wins_over_the_file_and_the_folder(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    (folder / "project.yaml").write_text("classes: [nut]\n")
    assert load_project(folder / "project.yaml", "parts").name == "parts"
    (folder / "project.yaml").write_text("classes: [nut]\nname: other\n")
    assert load_project(folder / "project.yaml").name == "other"
    assert load_project(folder / "project.yaml", "parts").name == "parts"


def test_a_file_in_the_folder_one_stands_in_has_the_name_of_that_folder(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "project.yaml").write_text("classes: [nut]\n")
    monkeypatch.chdir(tmp_path / "parts")
    assert load_project(Path("project.yaml")).name == "parts"
