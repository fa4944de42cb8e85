import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL, parse_project
from al_dagster.labelling.labels import classes_by_example, detector_prompts, final_label
from al_dagster.vision.protocols import Prompt


def test_classes_with_examples_are_proposed_and_the_others_asked_for_by_name(support_folder):
    project = parse_project({"name": "p", "classes": ["person", "bar", "disc"], "support": support_folder}, "test")
    assert classes_by_example(project) == ("bar", "disc")
    assert detector_prompts(project) == (Prompt("person"), Prompt(PROPOSAL))


def test_without_examples_no_proposals_are_asked_for():
    project = parse_project({"name": "p", "classes": "person,face"}, "test")
    assert detector_prompts(project) == (Prompt("person"), Prompt("face"))


def test_a_class_is_asked_for_with_its_synonyms_and_negatives():
    prompts = {"tin": {"synonyms": ["can"], "negatives": ["cup"]}}
    project = parse_project({"name": "p", "classes": "tin,face", "prompts": prompts}, "test")
    assert detector_prompts(project) == (Prompt("tin", ("can",), ("cup",)), Prompt("face"))


def test_a_model_that_was_trained_on_the_classes_is_asked_for_all_of_them_by_name(support_folder):
    values = {"name": "p", "classes": "disc,bar", "support": support_folder, "models": {"detector": "yolo"}}
    project = parse_project(values, "test")
    assert classes_by_example(project) == ()
    assert detector_prompts(project) == (Prompt("disc"), Prompt("bar"))


def test_a_class_with_validated_examples_is_proposed():
    project = parse_project({"name": "p", "classes": "tin,face", "validated_examples": "tin"}, "test")
    assert classes_by_example(project) == ("tin",)
    assert detector_prompts(project) == (Prompt("face"), Prompt(PROPOSAL))


def test_examples_of_something_that_is_no_class_are_an_error(support_folder):
    project = parse_project({"name": "p", "classes": ["disc"], "support": support_folder}, "test")
    with pytest.raises(UserError, match="'bar' is not among the project's classes"):
        detector_prompts(project)


@pytest.mark.parametrize(
    ("detected", "classified", "label"),
    [
        ("object", "disc", "disc"),
        ("object", "Unknown", "Unknown"),
        ("object", None, "Unknown"),
        ("person", None, "person"),
        ("person", "disc", "person"),
        ("person", "Unknown", "person"),
        ("bar", "disc", "disc"),
        ("bar", "Unknown", "bar"),
    ],
)
def test_the_classifier_names_proposals_and_classes_with_examples(detected, classified, label):
    assert final_label(detected, classified, ("bar", "disc")) == label
