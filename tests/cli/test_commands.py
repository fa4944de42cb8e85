"""The commands from end to end, as a person or a program calls them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image as Pillow

from al_dagster.assets.partitions import batches
from al_dagster.core.errors import UserError
from al_dagster.core.lake import Lake
from al_dagster.core.project import parse_project
from al_dagster.core.settings import Settings
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.registry.projects import list_projects, save_project
from al_dagster.registry.review import delete_objects
from al_dagster.runs import execute

COMMANDS = ("demo", "ingest", "status", "search", "sync", "train", "evaluate", "calibrate", "lineage", "doctor", "ui")
GROUPS = {
    "objects": ("list", "show", "validate", "edit", "refresh", "delete", "accept"),
    "images": ("list", "background"),
    "dataset": ("create", "list", "build", "export", "show"),
}
AL = Path(sys.executable).with_name("al")


def test_the_help_names_every_command(here: Callable) -> None:
    said = here("--help")
    assert said.status == 0
    assert all(name in said.out for name in (*COMMANDS, *GROUPS))
    for group, names in GROUPS.items():
        assert all(name in here(group, "--help").out for name in names)


def test_every_command_explains_itself(here: Callable) -> None:
    calls = [(name,) for name in COMMANDS] + [(group, name) for group, names in GROUPS.items() for name in names]
    for call in calls:
        said = here(*call, "--help")
        assert said.status == 0
        assert "Usage: al " + " ".join(call) in said.out


def test_a_group_called_alone_shows_its_help(here: Callable) -> None:
    assert "validate" in here("objects").out


def test_the_version_is_that_of_the_package(here: Callable) -> None:
    from importlib.metadata import version

    assert here("--version").out == f"al {version('al_dagster')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["status"]])
def test_help_and_status_load_nothing_heavy(arguments: list[str], place: Any) -> None:
    code = (
        "import sys, json\nfrom al_dagster.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'dagster', 'chromadb', 'mlflow', 'supervision', 'cv2', 'pandas', 'pyarrow', 'torch', 'ultralytics', "
        "'tifffile'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=place.environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"


def test_ingest_says_what_came_of_each_batch_and_nothing_else_on_standard_output(place: Any) -> None:
    (batch,) = place.ingested
    assert batch["batch"].startswith("shapes--")
    assert (batch["files"], batch["quarantined"], batch["duplicates"]) == (5, 1, 0)
    assert batch["images_computed"] == 4
    assert batch["objects"] == 8
    assert batch["run_id"]


def test_the_same_ingest_again_says_that_nothing_is_new(here: Callable, place: Any) -> None:
    said = here("ingest", place.images, "-p", "shapes", home=place.home)
    assert said.status == 0
    assert said.out.splitlines() == [
        f"{place.images}: nothing new; every file is labelled already but 1, which is quarantined:  al status",
        "`al ingest --project shapes --again` tries quarantined files again.",
    ]
    said = here("ingest", place.images / "0.bmp", "-p", "shapes", home=place.home)
    assert (said.status, said.out) == (0, f"{place.images / '0.bmp'}: nothing new; every file is labelled already\n")
    assert here("ingest", place.images / "0.bmp", "-p", "shapes", "--json", home=place.home).json == []


def test_another_detector_leaves_the_weights_of_yolo_behind(here: Callable, tmp_path: Path) -> None:
    models = {"detector": "yolo", "weights": "/w.pt"}
    with open_registry(Settings(home=tmp_path / "home").database_url) as registry:
        save_project(registry, parse_project({"name": "x", "classes": ["person"], "models": models}, "the test"))
    assert "/w.pt: there is no such file" in here("ingest", "--again", "-p", "x").err
    assert here("ingest", "--again", "-p", "x", "--detector", "opencv").status == 0
    with open_registry(Settings(home=tmp_path / "home").database_url) as registry:
        (project,) = list_projects(registry)
    assert (project.models.detector, project.models.weights) == ("opencv", None)


def test_a_file_name_with_line_breaks_stays_in_its_line(here: Callable, tmp_path: Path) -> None:
    said = here("ingest", tmp_path / "two\nlines.png", "-p", "x", "-c", "person")
    assert (said.status, said.err.count("\n")) == (2, 1)


@dataclass(frozen=True)
class Story:
    """A copy of the project: an ingest of one more image was interrupted, then all was labelled for discs only.

    By the examples of discs alone, a square is most like a disc.
    """

    home: Path
    interrupted: tuple[int, str, str]
    again: list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(al: Callable, draw_shapes: Callable, labelled_place: Any, tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("story")
    home, images, discs = root / "home", root / "images", root / "examples"
    shutil.copytree(labelled_place.home, home)
    shutil.copytree(labelled_place.support / "disc", discs / "disc")
    draw_shapes(images / "9.bmp", 9)
    call = ["ingest", images, "-p", "shapes", "-c", "disc", "--support", discs, "--json"]
    process = subprocess.Popen(
        [AL, *map(str, call)],
        env={**labelled_place.environment, "AL_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and len(list(home.glob("lake/sources/*.parquet"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Story(home, (process.returncode, out, err), al(home, *call, "--again").json)


def test_an_interrupted_ingest_exits_130_with_one_line(story: Story) -> None:
    status, out, err = story.interrupted
    assert (status, out) == (130, "")
    assert err == "al: interrupted; the same command again goes on where this one stopped\n"


def test_again_finishes_what_was_interrupted_and_applies_new_classes_to_all_files(here: Callable, story: Story) -> None:
    assert [(row["files"], row["objects"]) for row in story.again] == [(5, 8), (1, 2)]
    status = here("status", "--json", home=story.home).json
    assert status["unfinished"] == []
    assert [(row["files"], row["objects"]) for row in status["projects"]] == [(6, 10)]
    rows = here("objects", "list", "--json", home=story.home).json
    assert {row["category"] for row in rows} == {"disc"}


def test_new_classes_for_labelled_files_say_how_to_apply_them(here: Callable, story: Story, place: Any) -> None:
    call = ["ingest", place.images, "-p", "shapes", "-c", "disc,person"]
    said = here(*call, home=story.home)
    assert said.status == 0
    assert "nothing new" in said.out
    assert "is configured anew; `al ingest --project shapes --again`" in said.out
    assert "is configured anew" not in here(*call, home=story.home).out


def test_the_project_that_is_named_wins_over_its_file_and_folder(here: Callable, place: Any, tmp_path: Path) -> None:
    images = tmp_path / "my photos"
    images.mkdir()
    shutil.copy(sorted(place.images.glob("*.bmp"))[0], images)
    (images / "project.yaml").write_text(f"classes: [square, disc]\nsupport: {place.support}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(images)
        said = here("ingest", ".", "-p", "shapes", "--config", "project.yaml")
    assert (said.status, said.err) == (0, said.err)
    assert said.out.startswith("shapes: ")
    assert "nothing new" in here("ingest", images, "-p", "shapes").out


def test_links_in_a_folder_are_labelled_as_what_they_lead_to(here: Callable, place: Any, tmp_path: Path) -> None:
    first, second = sorted(place.images.glob("*.bmp"))[:2]
    (tmp_path / "pool").mkdir()
    shutil.copy(second, tmp_path / "pool" / "b.bmp")
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.bmp").symlink_to(first)
    (tmp_path / "few" / "more").symlink_to(tmp_path / "pool")
    call = ["ingest", tmp_path / "few", "-p", "shapes", "-c", "square,disc", "--support", place.support, "--json"]
    (row,) = here(*call).json
    assert (row["files"], row["quarantined"]) == (2, 0)


def test_status_says_why_a_batch_is_unfinished_and_what_goes_on_with_it(
    here: Callable, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, images = tmp_path / "home", shutil.copytree(place.images, tmp_path / "my images")
    monkeypatch.setenv("AL_HOME", str(home))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    project = parse_project({"name": "zoo", "classes": ["unicorn"]}, "the test")
    with open_registry(Settings(home=home).database_url) as registry:
        failing, waiting = take_folder(registry, images, project, batch_size=3)
    with pytest.raises(UserError, match="unicorn"):
        execute("label_batch", partition=failing, partitions=batches)
    said = here("status", home=home)
    assert said.status == 0
    lines = said.out.splitlines()
    (failed,) = [line for line in lines if failing in line]
    assert "3 files: " in failed
    assert "does not know 'unicorn'" in failed
    (not_begun,) = [line for line in lines if waiting in line]
    assert not_begun.endswith("files: not begun")
    assert f"To go on with them:  al ingest '{images}' --project zoo" in lines
    assert [row["batch"] for row in here("status", "--json", home=home).json["unfinished"]] == [failing, waiting]


def test_status_says_why_files_were_quarantined(here: Callable, place: Any) -> None:
    said = here("status", "--json", home=place.home).json
    (project,) = said["projects"]
    assert (project["project"], project["files"], project["quarantined"], project["objects"]) == ("shapes", 5, 1, 8)
    assert [row["file"] for row in said["quarantined"]] == [str(place.images / "text.jpg")]
    assert said["outbox"] == {"pending": 0, "synced": 8, "failed": 0}
    text = here("status", home=place.home).out
    assert f"{place.images / 'text.jpg'}: {said['quarantined'][0]['reason']}" in text


def test_status_before_anything_says_how_to_begin_and_makes_nothing(here: Callable, tmp_path: Path) -> None:
    said = here("status")
    assert said.status == 0
    assert "al ingest" in said.out
    assert not (tmp_path / "home").exists()
    assert here("status", "--json").json["projects"] == []


def test_objects_are_listed_within_80_columns_with_their_ids_whole(here: Callable, place: Any) -> None:
    rows = here("objects", "list", "-p", "shapes", "--category", "disc", "--json", home=place.home).json
    assert len(rows) == 4
    assert {row["category"] for row in rows} == {"disc"}
    assert {row["file_path"] for row in rows} == {str(place.images / f"{number}.bmp") for number in range(4)}
    said = here("objects", "list", "--limit", "3", home=place.home)
    assert max(map(len, said.out.splitlines())) <= 80
    assert "3 of 8" in said.out
    listed = here("objects", "list", "--limit", "3", "--json", home=place.home).json
    assert all(row["object_id"] in said.out for row in listed)


def test_an_object_is_shown_with_its_mask(here: Callable, place: Any, tmp_path: Path) -> None:
    found = here("objects", "list", "--category", "square", "--json", home=place.home).json[0]
    said = here("objects", "show", found["object_id"], "--mask", tmp_path / "mask.png", "--json", home=place.home)
    assert said.json["file_path"].startswith(str(place.images))
    assert np.asarray(Pillow.open(tmp_path / "mask.png")).sum() == said.json["area"]
    assert found["object_id"] in here("objects", "show", found["object_id"], home=place.home).out


@pytest.fixture
def labelled_home(place: Any, tmp_path: Path) -> Path:
    """A home whose images were labelled once, both copied so that a test may change them."""
    images = shutil.copytree(place.images, tmp_path / "images")
    with open_registry(Settings(home=place.home).database_url) as registry, registry.session() as session:
        for table in ("sources", "batch_files"):
            moved = f"UPDATE {table} SET file_path = replace(file_path, '{place.images}', '{images}')"
            session.connection().exec_driver_sql(moved)
    return Path(place.home)


def test_reviewing_objects_is_kept_with_who_said_so(here: Callable, story: Story) -> None:
    home = story.home
    ids = [row["object_id"] for row in here("objects", "list", "--json", home=home).json]
    call = ["objects", "validate", *ids[:2], "--by", "ada", "--json"]
    assert here(*call, home=home).json == {"validated": ids[:2]}
    assert here("objects", "edit", ids[2], "--box", "1,2,30,20", "--difficult", "--by", "bob", home=home).status == 0
    assert here("objects", "delete", ids[3], "--by", "ada", home=home).out == f"deleted: {ids[3]}\n"
    assert here("objects", "delete", ids[3], "--by", "bob", home=home).out == f"deleted before: {ids[3]}\n"
    shown = {key: here("objects", "show", key, "--json", home=home).json for key in ids}
    assert [shown[key]["validated_by"] for key in ids[:2]] == ["ada", "ada"]
    assert [shown[ids[2]][name] for name in ("bbox_x", "bbox_w", "is_difficult", "edited_by")] == [1, 30, True, "bob"]
    assert (shown[ids[3]]["state"], shown[ids[3]]["edited_by"]) == ("deleted", "ada")
    assert len(here("objects", "list", "--validated", "--json", home=home).json) == 3
    assert here("objects", "list", "--conflicts", home=home).out == "Conflicts: none\n"
    assert here("status", "--json", home=home).json["outbox"]["pending"] == 1
    assert here("sync", "--json", home=home).json == {"synced": 1, "failed": 0, "pending": 0}


def test_a_moved_box_gets_mask_and_vector_at_once_and_is_shown_as_edited(here: Callable, labelled_home: Path) -> None:
    home = labelled_home
    before = here("objects", "list", "--category", "square", "--json", home=home).json[0]
    name, box = before["object_id"], [before["bbox_x"], before["bbox_y"], before["bbox_w"] - 8, before["bbox_h"]]
    said = here("objects", "edit", name, "--box", ",".join(map(str, box)), "--by", "ada", home=home)
    assert (said.status, said.out) == (0, f"edited: {name}\n")
    shown = here("objects", "show", name, "--json", home=home).json
    assert (shown["is_stale"], shown["bbox_w"], shown["validated_by"]) == (False, before["bbox_w"] - 8, "ada")
    assert 0 < shown["area"] < before["area"]
    assert here("status", "--json", home=home).json["outbox"]["pending"] == 0
    assert name not in {hit["object_id"] for hit in here("search", name, "--json", home=home).json}
    listed = here("objects", "list", "--limit", "1", "--validated", home=home).out
    assert "edited" in listed
    assert "uncalibrated" not in listed


def test_an_edit_stands_though_its_image_is_away_and_a_refresh_makes_good(here: Callable, labelled_home: Path) -> None:
    home = labelled_home
    first, second = here("objects", "list", "--category", "disc", "--json", home=home).json[:2]
    name, other = first["object_id"], second["object_id"]
    path = Path(here("objects", "show", name, "--json", home=home).json["file_path"])
    path.rename(path.with_suffix(".away"))
    said = here("objects", "edit", name, "--box", "60,20,40,40", home=home)
    assert said.status == 0
    edited, why = said.out.splitlines()
    assert edited == f"edited: {name}"
    assert why == f"its mask and vector are made later, by `al objects refresh`, since {path} has vanished"
    assert "vector and mask wait to be made anew" in here("objects", "show", name, home=home).out
    waits = f"{name}: vector and mask wait to be made anew; `al objects refresh` makes them\n"
    assert here("objects", "list", home=home).out.endswith(waits)
    assert "1 stale" in here("status", home=home).out
    assert name not in {hit["object_id"] for hit in here("search", other, "--json", home=home).json}
    refused = here("search", name, home=home)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "run `al objects refresh`" in refused.err

    still = here("objects", "refresh", "-p", "shapes", home=home)
    assert (still.status, still.out) == (0, f"made anew: 0\n{name} still waits: {path} has vanished\n")
    path.with_suffix(".away").rename(path)
    assert here("objects", "refresh", "--json", home=home).json == {"refreshed": 1, "changed": 0, "unreadable": {}}
    assert here("objects", "refresh", home=home).out == "made anew: 0\n"
    assert name in {hit["object_id"] for hit in here("search", other, "--json", home=home).json}


def test_an_edit_stands_though_the_models_cannot_be_had(here: Callable, labelled_home: Path) -> None:
    home = labelled_home
    with open_registry(Settings(home=home).database_url) as registry:
        (project,) = list_projects(registry)
        models = project.models.model_copy(update={"embedder": "dinov2-base"})
        save_project(registry, project.model_copy(update={"models": models}))
    name = here("objects", "list", "--json", home=home).json[0]["object_id"]
    said = here("objects", "edit", name, "--box", "5,5,40,40", "--json", home=home)
    assert said.status == 0
    assert said.json["edited"] == [name]
    assert "dinov2-base" in said.json["waits"]
    refused = here("objects", "refresh", home=home)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "shapes: " in refused.err


@pytest.mark.parametrize("box", ["20,20,0.00009,30", "20,20,30,0", "20,20,nan,30", "20,20,inf,30"])
def test_a_box_that_holds_no_pixel_is_refused_in_a_sentence(here: Callable, place: Any, box: str) -> None:
    name = here("objects", "list", "--json", home=place.home).json[0]["object_id"]
    said = here("objects", "edit", name, "--box", box, home=place.home)
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "pixel" in said.err
    assert here("objects", "show", name, "--json", home=place.home).json["edited_at"] is None


def test_search_finds_the_like_of_an_object_and_of_a_picture(here: Callable, place: Any) -> None:
    disc = here("objects", "list", "--category", "disc", "--json", home=place.home).json[0]["object_id"]
    hits = here("search", disc, "-k", "3", "--json", home=place.home).json
    assert [hit["category"] for hit in hits] == ["disc"] * 3
    picture = place.support / "square" / "2.png"
    hits = here("search", picture, "-k", "2", "-p", "shapes", "--json", home=place.home).json
    assert [hit["category"] for hit in hits] == ["square"] * 2
    said = here("search", disc, "-k", "2", home=place.home)
    assert max(map(len, said.out.splitlines())) <= 80


def test_a_picture_whose_file_is_named_like_an_object_is_searched_as_a_picture(
    here: Callable, place: Any, tmp_path: Path
) -> None:
    picture = shutil.copy(place.support / "square" / "2.png", tmp_path / "obj_1.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        hits = here("search", picture.name, "-k", "2", "--json", home=place.home).json
    assert [hit["category"] for hit in hits] == ["square"] * 2


@pytest.mark.parametrize("command", ["ingest", "search", "sync"])
def test_what_a_killed_command_left_for_the_vector_store_is_pushed_by_the_next(
    here: Callable, labelled_home: Path, place: Any, command: str
) -> None:
    home = labelled_home
    found = here("objects", "list", "--category", "disc", "--json", home=home).json
    with open_registry(Settings(home=home).database_url) as registry:
        # As a process leaves it that was killed after its transaction.
        delete_objects(registry, [found[0]["object_id"]], "ada")
    assert here("status", "--json", home=home).json["outbox"]["pending"] == 1
    arguments = {"ingest": [place.images, "-p", "shapes"], "search": [found[1]["object_id"]], "sync": []}
    assert here(command, *arguments[command], home=home).status == 0
    assert here("status", "--json", home=home).json["outbox"]["pending"] == 0


def test_reconciling_repairs_nothing_where_nothing_is_wrong(place: Any) -> None:
    said = place.al("sync", "--reconcile", "--json")
    assert set(said.json.values()) == {0}
    assert {"missing_in_store", "missing_in_registry", "repaired"} <= said.json.keys()


def test_a_dataset_is_created_exported_and_listed(here: Callable, place: Any, tmp_path: Path) -> None:
    definition = {"name": "all", "project": "shapes", "split": {"train": 0.5, "val": 0.25, "test": 0.25}}
    (tmp_path / "all.yaml").write_text(json.dumps(definition))
    assert here("dataset", "create", tmp_path / "all.yaml", "--json", home=place.home).json["split"]["train"] == 0.5
    (row,) = [row for row in here("dataset", "list", "--json", home=place.home).json if row["name"] == "all"]
    assert row["version"] is None
    exported = place.al("dataset", "export", "all")
    assert exported.status == 0, exported.err
    assert "Dataset all 1.0\n  version  new" in exported.out
    folder = place.home / "exports" / "all" / "1.0"
    assert str(folder) in exported.out
    assert len(list((folder / "yolo" / "labels").rglob("*.txt"))) == 4
    (row,) = [row for row in here("dataset", "list", "--json", home=place.home).json if row["name"] == "all"]
    assert (row["version"], row["objects"], row["export_path"]) == ("1.0", 8, str(folder))
    chain = here("lineage", "all", "--json", home=place.home).json
    assert chain["dagster_run_id"] == row["run_id"]
    assert chain["made_from"]["batches"][0]["dagster_run_id"] == place.ingested[0]["run_id"]
    assert place.al("dataset", "export", "all@1.0", "--json").json["version"] == "1.0"
    shown = here("dataset", "show", "all@1.0", "--json", home=place.home).json
    assert (shown["version"], sum(shown["objects"].values()), shown["left_out"]) == ("1.0", 8, [])
    assert "Dataset all 1.0" in here("dataset", "show", "all", home=place.home).out
    for command in (("dataset", "export"), ("dataset", "show"), ("train",), ("evaluate",), ("lineage",)):
        said = here(*command, "all@9.9", home=place.home)
        assert (said.status, "dataset 'all@9.9' is not in the registry; known: all@1.0" in said.err) == (2, True)
    assert str(place.images / "0.bmp") in here("lineage", "all@1.0", home=place.home).out.replace("\n", "")


def test_a_dataset_whose_check_fails_is_told_on_standard_error(here: Callable, place: Any) -> None:
    assert here("dataset", "create", "--name", "bent", "-p", "shapes", home=place.home).status == 0
    first = place.al("dataset", "export", "bent", "--json")
    assert (first.json["failed_checks"], first.err) == ([], "")
    lake = Lake(str(place.home / "lake"))
    rows = lake.read("dataset", first.json["dataset_id"])
    moved = pc.add(rows["bbox_x"], 1.0)
    lake.write("dataset", first.json["dataset_id"], rows.set_column(rows.column_names.index("bbox_x"), "bbox_x", moved))

    said = place.al("dataset", "export", "bent@1.0", "--json")

    (told,) = said.json["failed_checks"]
    assert told.startswith("export_equals_registry: ")
    assert "has the box" in told
    assert (said.status, said.err) == (0, f"al: check failed: {told}\n")


@pytest.mark.slow
def test_a_model_is_trained_and_evaluated_and_says_how_good_it_is_and_where(
    here: Callable, place: Any, tmp_path: Path
) -> None:
    training = {"epochs": 1, "imgsz": 64, "batch": 2, "device": "cpu", "threads": 1, "validate_each_epoch": False}
    definition = {"name": "few", "project": "shapes", "split": {"train": 0.5, "val": 0.25, "test": 0.25}}
    (tmp_path / "few.yaml").write_text(json.dumps({**definition, "formats": ["yolo"], "training": training}))
    here("dataset", "create", tmp_path / "few.yaml", home=place.home)
    said = here("evaluate", "few", home=place.home)
    assert (said.status, said.err) == (2, "al: dataset few has no trained model yet: `al train few` trains one\n")
    trained = place.al("train", "few", "--json")
    assert trained.status == 0, trained.err
    assert trained.json["model"] == "few/1"
    assert not trained.json["reused"]
    assert 0 <= trained.json["map50"] <= 1
    assert {row["name"] for row in trained.json["per_class"]} == {"square", "disc"}
    assert Path(trained.json["weights"]).is_file()
    evaluated = place.al("evaluate", "few")
    assert evaluated.status == 0, evaluated.err
    assert all(word in evaluated.out for word in ("Model few/1", "mAP50", "trained", "square", trained.json["weights"]))
    chain = here("lineage", "few/1", "--json", home=place.home).json
    assert chain["mlflow_run_id"] == trained.json["mlflow_run_id"]
    assert chain["dagster_run_id"] == trained.json["run_id"]

    other = {**definition, "formats": ["yolo"], "training": {**training, "epochs": 500}}
    (tmp_path / "few.yaml").write_text(json.dumps(other))
    assert here("dataset", "create", tmp_path / "few.yaml", home=place.home).status == 0
    refused = place.al("evaluate", "few")
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "has no model trained with its present parameters: `al train few` trains one" in refused.err


def test_a_dataset_is_built_and_one_that_selects_nothing_is_one_sentence(here: Callable, place: Any) -> None:
    for name, more in (("sure", ["--min-confidence", "0.5"]), ("none", ["--validated"])):
        assert here("dataset", "create", "--name", name, "-p", "shapes", *more, home=place.home).status == 0
    built = place.al("dataset", "build", "sure", "--json")
    assert (built.json["version"], built.json["new_version"], built.json["objects"]) == ("1.0", True, 8)
    assert {"dataset_id", "run_id", "images_train", "objects_test"} <= built.json.keys()
    said = place.al("dataset", "build", "none", "--json")
    assert (said.status, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert "'none'" in said.err


def test_the_doctor_names_versions_and_finds_everything_in_order(place: Any) -> None:
    said = place.al("doctor", "--json")
    assert all(row["ok"] for row in said.json), said.json
    assert said.status == 0
    says = {row["what"]: row["says"] for row in said.json}
    assert "dagster 1." in says["packages"]
    assert "8 vectors" in says["vector store"]


def test_the_doctor_says_what_is_wrong_and_exits_1(here: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = here("doctor", "--json", home=tmp_path / "file" / "home")
    assert said.status == 1
    assert [row["what"] for row in said.json if not row["ok"]] == ["home"]
    assert "set AL_HOME" in said.json[-1]["says"]


@pytest.fixture
def start_ui(place: Any, tmp_path: Path) -> Iterator[Callable[[], tuple["subprocess.Popen[str]", int]]]:
    """Starts `al ui` on a free port over one home; what is left of it is killed afterwards."""
    started = []

    def start() -> tuple["subprocess.Popen[str]", int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {**place.environment, "AL_HOME": str(tmp_path / "home")}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([AL, "ui", "--port", str(port)], env=environment, **pipes)
        started.append(process)
        return process, port

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_ui_is_served_on_this_machine_only_and_ends_with_all_it_started(start_ui: Callable, tmp_path: Path) -> None:
    process, port = start_ui()
    assert process.stdout.readline() == f"Dagster UI: http://127.0.0.1:{port}\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=30) as answer:
        assert b"dagster_webserver_version" in answer.read()
    assert f":{port:04X}" in Path("/proc/net/tcp").read_text()
    assert f"00000000:{port:04X}" not in Path("/proc/net/tcp").read_text()
    assert len(_with_home(tmp_path / "home")) > 2

    second, _ = start_ui()
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out, err.count("\n")) == (2, "", 1)
    assert f"is running already: http://127.0.0.1:{port} (process {process.pid})" in err

    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode == 0
    assert _with_home(tmp_path / "home") == []


@pytest.mark.slow
def test_what_a_killed_ui_had_started_ends_and_another_can_be_started(start_ui: Callable, tmp_path: Path) -> None:
    process, port = start_ui()
    assert process.stdout.readline() == f"Dagster UI: http://127.0.0.1:{port}\n"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 120
    while _with_home(tmp_path / "home") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _with_home(tmp_path / "home") == []
    again, port = start_ui()
    assert again.stdout.readline() == f"Dagster UI: http://127.0.0.1:{port}\n"


def _with_home(home: Path) -> list[str]:
    """The processes whose AL_HOME is this folder."""
    marked = f"AL_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marked in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return [line for line in found if line]
