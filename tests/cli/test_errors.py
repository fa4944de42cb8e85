"""Whatever a user can get wrong is one sentence and exit status 2; whatever else goes wrong is one line and 1."""

import importlib.util
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from al_dagster.core import disk


def _is_one_line(said: Any) -> bool:
    return said.out == "" and said.err.startswith("al: ") and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["No such command", "al --help"]),
        (["status", "--nonsense"], ["--nonsense", "al status --help"]),
        (["ingest", "photos"], ["--project", "al ingest --help"]),
        (["objects", "list", "--min-confidence", "2"], ["--min-confidence", "less than or equal to 1"]),
        (["objects", "list", "--limit", "0"], ["--limit"]),
        (["search", "obj_aaaaaaaaaaaa", "--top-k", "many"], ["--top-k", "integer"]),
        (["dataset", "build"], ["NAME", "al dataset build --help"]),
        (["ui", "--port", "99999"], ["--port", "65535"]),
        (["ingest", "-p", "x"], ["give a folder of images"]),
        (["ingest", "nowhere", "-p", "x", "-c", "person"], ["nowhere does not exist"]),
        (["ingest", ".", "-p", "x"], ["project 'x' is new", "--classes"]),
        (["ingest", ".", "-p", "x", "-c", " , ,"], ["names no class"]),
        (["ingest", ".", "-p", ".ab", "-c", "person"], ["'.ab' cannot name a project"]),
        (["ingest", ".", "-p", "x", "-c", "person", "--profile", "big"], ["profile", "embedded"]),
        (["ingest", ".", "-p", "x", "-c", "dragon"], ["'dragon'", "it knows", "person"]),
        (["ingest", ".", "-p", "x", "-c", "nut", "--support", "nowhere"], ["nowhere", "folder of example pictures"]),
        (["ingest", ".", "-p", "x", "-c", "person", "--weights", "w.pt"], ["w.pt' are for the detector yolo alone"]),
        (["ingest", ".", "-p", "x", "-c", "object"], ["'object' is what al_dagster calls"]),
        (["ingest", "--again", "-p", "x"], ["project 'x' is new"]),
        (["dataset", "create"], ["--name and --project"]),
        (["dataset", "create", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["dataset", "create", "nowhere.yaml", "--name", "x"], ["not both"]),
        (["dataset", "create", "--name", "x", "-p", "y", "-c", ", "], ["name at least one class"]),
        (["dataset", "create", "--name", "../x", "-p", "y"], ["cannot name a dataset"]),
    ],
)
def test_a_wrong_call_is_one_sentence_and_status_2(here: Callable, arguments: list[str], words: list[str]) -> None:
    said = here(*arguments)
    assert said.status == 2
    assert _is_one_line(said)
    assert all(word in said.err for word in words), said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["objects", "list"],
        ["objects", "validate", "obj_aaaaaaaaaaaa"],
        ["search", "obj_aaaaaaaaaaaa"],
        ["sync"],
        ["dataset", "list"],
        ["dataset", "build", "parts"],
        ["evaluate", "parts"],
        ["lineage", "parts"],
    ],
)
def test_without_a_registry_the_command_says_how_to_make_one_and_makes_nothing(
    here: Callable, arguments: list[str], tmp_path: Path
) -> None:
    said = here(*arguments)
    assert said.status == 2
    assert _is_one_line(said)
    assert "there is no registry in" in said.err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["objects", "show", "obj_aaaaaaaaaaaa"], ["no object 'obj_aaaaaaaaaaaa'"]),
        (["objects", "validate", "obj_aaaaaaaaaaaa"], ["no object"]),
        (["objects", "delete", "obj_aaaaaaaaaaaa"], ["no object"]),
        (["objects", "edit", "obj_aaaaaaaaaaaa", "--box", "1,2"], ["--box 1,2", "four numbers"]),
        (["objects", "list", "-p", "nothing"], ["no project 'nothing'", "shapes"]),
        (["objects", "list", "--category", "triangle"], ["'triangle'", "disc, square"]),
        (["objects", "list", "--conflicts", "--category", "disc"], ["--conflicts goes with"]),
        (["search", "obj_aaaaaaaaaaaa"], ["no object"]),
        (["search", "red car"], ["red car", "words cannot be searched for"]),
        (["search", "nowhere.png"], ["nowhere.png", "give an object id or a picture"]),
        (["search", "nowhere.png", "--category", "triangle"], ["disc, square"]),
        (["dataset", "create", "--name", "x", "-p", "nothing"], ["no project 'nothing'", "shapes"]),
        (["dataset", "create", "--name", "x", "-p", "shapes", "-c", "sofa"], ["no class 'sofa'", "are square, disc"]),
        (["dataset", "create", "--name", "x", "-p", "shapes", "-c", "Disc"], ["no class 'Disc'", "mean 'disc'?"]),
        (["objects", "list", "--category", "Disc"], ["'Disc'", "mean 'disc'?"]),
        (["dataset", "build", "undefined"], ["dataset definition 'undefined'"]),
        (["train", "undefined"], ["'undefined'"]),
        (["evaluate", "undefined"], ["'undefined'"]),
        (["lineage", "src_aaaaaaaaaaaa"], ["no source"]),
        (["lineage", "undefined"], ["nothing has the id 'undefined'"]),
        (["lineage", "undefined/1"], ["nothing has the id 'undefined/1'"]),
        (["lineage", "undefined@1.0"], ["'undefined@1.0'"]),
        (["ingest", "--again", "-p", "shapes", "-c", "dragon"], ["(dragon)"]),
    ],
)
def test_what_is_not_in_the_registry_is_one_sentence(
    here: Callable, place: Any, arguments: list[str], words: list[str]
) -> None:
    said = here(*arguments, home=place.home)
    assert said.status == 2
    assert _is_one_line(said)
    assert all(word in said.err for word in words), said.err


def test_an_empty_folder_is_not_taken_for_a_labelled_one(here: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = here("ingest", tmp_path / "empty", "-p", "x", "-c", "person")
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "holds no files to label" in said.err


def test_a_support_folder_of_another_class_is_one_sentence(here: Callable, place: Any) -> None:
    said = here("ingest", place.images, "-p", "x", "-c", "nut", "--support", place.support)
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "'disc', 'square' is not among the project's classes (nut)" in said.err


def test_a_wrong_key_in_a_definition_names_the_right_ones(here: Callable, place: Any, tmp_path: Path) -> None:
    (tmp_path / "parts.yaml").write_text("project: shapes\nfilters: {}\n")
    said = here("dataset", "create", tmp_path / "parts.yaml", home=place.home)
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "unknown key 'filters'" in said.err
    assert "split" in said.err


def test_a_home_that_cannot_be_written_is_one_sentence(here: Callable, place: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = here("ingest", place.images, "-p", "x", "-c", "person", home=tmp_path / "file" / "home")
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "AL_HOME" in said.err


def test_a_full_disk_is_called_so(here: Callable, place: Any, tmp_path: Path) -> None:
    home = place.home

    def fill(connection: Any, record: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", fill)
    try:
        (first, *_) = here("objects", "list", "--json", home=home).json
        said = here("objects", "validate", first["object_id"], "--by", "x" * 60_000, home=home)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", fill)
    assert (said.status, _is_one_line(said)) == (2, True), said
    assert f"the disk is full: that of {home}" in said.err


def test_without_room_no_run_is_begun(
    here: Callable, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.home
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
    for command in (("ingest", "-p", "shapes", "--again"), ("sync", "--reconcile")):
        said = here(*command, home=home)
        assert (said.status, _is_one_line(said)) == (2, True), said
        assert "the disk is full" in said.err


def test_a_wrong_setting_is_one_sentence(here: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_BATCH_SIZE", "many")
    said = here("status")
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "AL_BATCH_SIZE" in said.err


def test_a_taken_port_is_one_sentence(here: Callable) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = here("ui", "--port", taken.getsockname()[1])
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "another, such as `al ui --port" in said.err


@pytest.mark.parametrize("arguments", [["train", "x"], ["evaluate", "x"], ["demo"]])
def test_without_the_training_extra_the_command_names_it(
    here: Callable, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ultralytics" else find(name, *rest)
    )
    said = here(*arguments)
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "'train' extra" in said.err


def test_an_unexpected_error_is_one_line_that_names_its_log(
    here: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("al_dagster.cli.stores.has_registry", lambda settings: 1 / 0)
    said = here("status")
    assert (said.status, _is_one_line(said)) == (1, True)
    assert "unexpected ZeroDivisionError" in said.err
    assert "Traceback" in (tmp_path / "home" / "al.log").read_text()


def test_a_category_the_project_does_not_have_lists_those_it_has(here: Callable, place: Any) -> None:
    found = here("objects", "list", "--json", home=place.home).json[0]["object_id"]
    said = here("objects", "edit", found, "--category", "triangle", home=place.home)
    assert (said.status, _is_one_line(said)) == (2, True)
    assert "square, disc" in said.err


def test_ids_are_deleted_all_or_none(here: Callable, place: Any) -> None:
    rows = here("objects", "list", "--json", home=place.home).json
    said = here("objects", "delete", rows[0]["object_id"], "obj_aaaaaaaaaaaa", home=place.home)
    assert said.status == 2
    assert here("objects", "list", "--json", home=place.home).json == rows


def test_an_ingest_that_fails_makes_no_project(here: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = here("ingest", tmp_path / "empty", "-p", "empty", "-c", "face")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "holds no files to label" in said.err
    assert here("status", "--json").json["projects"] == []
