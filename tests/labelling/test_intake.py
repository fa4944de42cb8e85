import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from al_dagster.core.errors import UserError
from al_dagster.core.ids import batch_project
from al_dagster.labelling.intake import take_folder, take_inbox
from al_dagster.registry.batches import batch_manifest, list_batches, mark_labelled
from al_dagster.registry.database import open_registry
from al_dagster.registry.projects import get_project, list_projects


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        yield registry


@pytest.fixture
def fill_inbox(home):
    def fill(project: str = "shapes", count: int = 2, first: int = 0, **values: object) -> None:
        folder = home.pictures(count, f"inbox/{project}", first)
        config = {"classes": ["disc", "bar"], "support": str(home.support), **values}
        (folder / "project.yaml").write_text(yaml.safe_dump(config))

    return fill


def take(registry, home, batch_size: int = 256, settle_seconds: float = 0):
    return take_inbox(registry, home.settings.inbox, batch_size=batch_size, settle_seconds=settle_seconds)


def names(registry, keys) -> list[list[str]]:
    return [[os.path.basename(file.file_path) for file in batch_manifest(registry, key)] for key in keys]  # noqa: PTH119


def test_new_files_are_cut_into_batches_of_their_project(registry, home, fill_inbox):
    fill_inbox(count=3)
    intake = take(registry, home, batch_size=2)
    assert names(registry, intake.unfinished) == [["picture_0.png", "picture_1.png"], ["picture_2.png"]]
    assert all(key.startswith("shapes--") for key in intake.unfinished)
    assert get_project(registry, "shapes").classes == ("disc", "bar")


@pytest.mark.parametrize("name", ["나사", "bolts M8", "a...b", "x--y"])
def test_the_folder_of_a_project_may_have_any_printable_name(registry, home, fill_inbox, name):
    fill_inbox(name)
    intake = take(registry, home)
    assert intake.problems == []
    assert [batch_project(key) for key in intake.unfinished] == [name]
    assert get_project(registry, name).name == name


def test_a_file_is_taken_once_and_its_batch_stays_unfinished_until_it_is_labelled(registry, home, fill_inbox):
    fill_inbox()
    first = take(registry, home)
    assert take(registry, home).unfinished == first.unfinished
    mark_labelled(registry, first.unfinished[0])
    assert take(registry, home).unfinished == []
    fill_inbox(count=1, first=5)
    (key,) = take(registry, home).unfinished
    assert names(registry, [key]) == [["picture_5.png"]]


def test_a_file_that_is_still_being_written_waits(registry, home, fill_inbox):
    fill_inbox()
    late = home.settings.inbox / "shapes" / "picture_1.png"
    early = home.settings.inbox / "shapes" / "picture_0.png"
    os.utime(early, (time.time() - 60, time.time() - 60))
    (key,) = take(registry, home, settle_seconds=30).unfinished
    assert names(registry, [key]) == [["picture_0.png"]]
    os.utime(late, (time.time() - 60, time.time() - 60))
    assert names(registry, take(registry, home, settle_seconds=30).unfinished)[1:] == [["picture_1.png"]]


def test_many_overlapping_looks_take_each_file_once(registry, home, fill_inbox):
    fill_inbox(count=6)

    def look(_: int):
        with open_registry(home.settings.database_url) as own:
            return take(own, home, batch_size=4)

    with ThreadPoolExecutor(4) as pool:
        intakes = list(pool.map(look, range(8)))
    files = [name for batch in names(registry, list_batches(registry)) for name in batch]
    assert sorted(files) == [f"picture_{index}.png" for index in range(6)]
    assert {tuple(intake.unfinished) for intake in intakes} == {tuple(list_batches(registry))}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("classes: [disc]\nprofiel: embedded\n", "unknown key 'profiel'; the keys are name"),
        ("profile: embedded\n", "key 'classes' is missing"),
        ("classes: ['', ' ']\n", "classes: Tuple should have at least 1 item"),
        ("classes: [disc\n", "is not valid YAML in line"),
        ("- disc\n", "expected keys and values"),
    ],
)
def test_a_wrong_project_file_is_a_problem_of_its_project_alone(registry, home, fill_inbox, text, says):
    fill_inbox("wrong")
    fill_inbox("right")
    (home.settings.inbox / "wrong" / "project.yaml").write_text(text)
    intake = take(registry, home)
    assert [key.partition("--")[0] for key in intake.unfinished] == ["right"]
    (problem,) = intake.problems
    assert problem.startswith(str(home.settings.inbox / "wrong" / "project.yaml"))
    assert says in problem
    assert "\n" not in problem


def test_a_table_of_groups_that_is_missing_is_a_problem_of_its_project_alone(registry, home, fill_inbox):
    fill_inbox("wrong", grouping={"by": "column", "column": "groups.csv"})
    fill_inbox("right")
    intake = take(registry, home)
    assert [key.partition("--")[0] for key in intake.unfinished] == ["right"]
    (problem,) = intake.problems
    assert problem.endswith("wrong/groups.csv: the table of groups cannot be read: No such file or directory")


def test_a_folder_without_a_project_file_is_a_problem_that_says_what_to_do(registry, home):
    home.pictures(1, "inbox/bare")
    intake = take(registry, home)
    assert intake.unfinished == []
    (problem,) = intake.problems
    assert problem.startswith(f"{home.settings.inbox / 'bare'} has no project.yaml: write one with 'classes: [...]'")


def test_empty_entries_of_a_class_list_are_dropped(registry, home, fill_inbox):
    fill_inbox(classes=["disc", "", "  ", "disc", "bar"])
    take(registry, home)
    assert get_project(registry, "shapes").classes == ("disc", "bar")


def test_an_inbox_that_is_not_there_yet_is_empty(registry, home):
    intake = take(registry, home)
    assert (intake.unfinished, intake.problems) == ([], [])


def test_the_support_folder_in_the_inbox_is_no_input(registry, home, fill_inbox):
    fill_inbox(count=1)
    folder = home.settings.inbox / "shapes"
    (folder / "examples").symlink_to(home.support)
    config = {"classes": ["disc", "bar"], "support": "examples"}
    (folder / "project.yaml").write_text(yaml.safe_dump(config))
    assert names(registry, take(registry, home).unfinished) == [["picture_0.png"]]
    assert get_project(registry, "shapes").support == folder / "examples"


def test_batches_of_a_command_are_not_the_inboxs_to_label(registry, home):
    keys = take_folder(registry, home.pictures(1), home.project(), batch_size=256)
    assert len(keys) == 1
    assert take(registry, home).unfinished == []


def test_one_file_may_be_given_in_place_of_a_folder(registry, home):
    folder = home.pictures(3)
    keys = take_folder(registry, folder / "picture_1.png", home.project(), batch_size=256)
    assert names(registry, keys) == [["picture_1.png"]]


def test_a_path_that_does_not_exist_is_one_clear_sentence_and_leaves_no_project(registry, home):
    with pytest.raises(UserError, match="does not exist: give a folder of images or one image"):
        take_folder(registry, home.path / "nowhere", home.project(), batch_size=256)
    assert list_projects(registry) == []


def test_a_batch_of_a_command_that_was_interrupted_is_given_again(registry, home):
    folder = home.pictures(1)
    first = take_folder(registry, folder, home.project(), batch_size=256)
    assert take_folder(registry, folder, home.project(), batch_size=256) == first


def test_a_link_out_of_a_folder_that_a_person_names_counts_as_its_target(registry, home):
    target = home.pictures(1) / "picture_0.png"
    links = home.path / "links"
    links.mkdir()
    (links / "link.png").symlink_to(target)
    (key,) = take_folder(registry, links, home.project(), batch_size=256)
    (file,) = batch_manifest(registry, key)
    assert (file.size_bytes, file.mtime_ns) == (target.stat().st_size, target.stat().st_mtime_ns)
    assert take_folder(registry, links / "link.png", home.project(), batch_size=256) == [key]


def test_the_table_of_groups_beside_the_pictures_is_no_input(registry, home):
    folder = home.pictures(1)
    (folder / "groups.csv").write_text("file,group\npicture_0.png,a\n")
    project = home.project(grouping={"by": "column", "column": folder / "groups.csv"})
    assert names(registry, take_folder(registry, folder, project, batch_size=256)) == [["picture_0.png"]]


@pytest.mark.parametrize(
    "text",
    [
        "classes: " + "[" * 20_000,
        'classes: ["\\ud800"]',
        "classes: [x]\nclassification: {top_k: 12345678901234567890123}",
    ],
)
def test_a_folder_that_nothing_can_be_made_of_is_a_problem_of_itself_alone(registry, home, fill_inbox, text):
    fill_inbox()
    home.pictures(1, "inbox/broken")
    (home.settings.inbox / "broken" / "project.yaml").write_text(text)
    intake = take(registry, home)
    assert len(intake.unfinished) == 1
    (problem,) = intake.problems
    assert "broken/project.yaml: " in problem


def test_two_folders_of_one_project_name_are_a_problem_of_the_second(registry, home, fill_inbox):
    fill_inbox("parts", 1)
    fill_inbox("shapes", 1, name="parts")
    intake = take(registry, home)
    assert [key.rpartition("--")[0] for key in intake.unfinished] == ["parts"]
    (problem,) = intake.problems
    assert "names the project 'parts', which is that of" in problem


def test_a_folder_does_not_take_over_the_project_of_another_place_by_its_name(registry, home, fill_inbox):
    take_folder(registry, home.pictures(1), home.project("parts"), batch_size=256)
    fill_inbox("box", 1, name="parts", classes=["bar"], support=None)
    intake = take(registry, home)
    assert intake.unfinished == []
    assert "exists already and is configured otherwise" in intake.problems[0]
    assert get_project(registry, "parts").classes == ("disc", "bar")


def test_a_folder_may_have_a_project_of_another_name_and_be_configured_anew(registry, home, fill_inbox):
    fill_inbox("box", 1, name="parts")
    assert take(registry, home).problems == []
    fill_inbox("box", 1, name="parts", classes=["disc", "bar", "nut"])
    assert take(registry, home).problems == []
    assert get_project(registry, "parts").classes == ("disc", "bar", "nut")


def test_loose_files_of_the_inbox_are_reported(registry, home, fill_inbox):
    fill_inbox()
    (home.settings.inbox / "photo.png").write_bytes(b"x")
    (problem,) = take(registry, home).problems
    assert problem == f"{home.settings.inbox}/photo.png: lies in no project's folder; move it into one"


def test_links_between_folders_of_the_inbox_are_taken_as_their_targets(registry, home, fill_inbox):
    fill_inbox("parts", 1)
    target = home.pictures(1, "inbox/pool", first=7) / "picture_7.png"
    (home.settings.inbox / "parts" / "link.png").symlink_to(target)
    (key,) = take(registry, home).unfinished
    sizes = {file.file_path.rpartition("/")[2]: file.size_bytes for file in batch_manifest(registry, key)}
    assert sizes["link.png"] == target.stat().st_size


def test_a_path_is_one_however_it_is_spelt(registry, home):
    folder = home.pictures(2)
    first = take_folder(registry, folder, home.project(), batch_size=256)
    assert take_folder(registry, folder / ".." / folder.name, home.project(), batch_size=256) == first
    assert names(registry, first) == [["picture_0.png", "picture_1.png"]]
