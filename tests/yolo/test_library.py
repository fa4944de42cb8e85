from typing import Any

import pytest

CLASSES = ["Red Box", "green disc", "blue bar"]


@pytest.mark.parametrize("name", ["harmful.pt", "harmful-old-format.pt", "harmful-within.pt"])
def test_a_pickle_that_would_do_something_is_refused(loaded: Any, name: str) -> None:
    assert loaded.found["outcome"][name] == (
        f"{loaded.folder / name} cannot be read as a YOLO model: it is damaged, or holds more than layers of "
        "ultralytics and torch, and nothing else is unpickled"
    )


def test_what_a_refused_pickle_would_do_is_not_done(loaded: Any) -> None:
    assert loaded.found["executed"] == []
    assert loaded.found["executed_if_unrestricted"] == ["run-3"]


@pytest.mark.parametrize("name", ["tiny.pt", "yolov5s.pt", "o'brien's.pt"])
def test_weights_are_read_whatever_the_file_is_called(loaded: Any, name: str) -> None:
    assert loaded.found["outcome"][name] == CLASSES


def test_a_model_of_outlines_gives_boxes_but_cannot_be_trained_from(loaded: Any) -> None:
    assert loaded.found["outcome"]["outlines.pt"] == ["leaf"]
    assert loaded.found["as_training_start"].endswith(
        "outlines.pt is a YOLO model for the task 'segment'; one for 'detect' is needed"
    )


def test_loading_and_predicting_reach_for_no_network(loaded: Any) -> None:
    assert loaded.found["network"] == []


def test_weights_whose_content_is_not_what_the_run_began_with_are_refused(loaded: Any) -> None:
    file = loaded.folder / "tiny.pt"
    assert loaded.found["with_another_content"] == f"{file} was replaced while it was in use; run it again"


def test_a_lack_of_memory_is_not_taken_for_a_damaged_file(loaded: Any) -> None:
    assert loaded.found["memory_ran_out"].startswith("True ")


def test_no_copy_of_the_weights_is_left(loaded: Any) -> None:
    assert loaded.found["left"] == sorted(loaded.found["outcome"])
