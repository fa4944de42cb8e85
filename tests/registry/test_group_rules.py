"""The rules by which a project groups its files itself."""

from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.project import GroupingConfig
from al_dagster.registry.group_rules import group_keys, read_groups


def keys(config, *paths, others=()):
    return group_keys(GroupingConfig(**config), paths, lambda: [*paths, *others])


def test_by_folder_a_group_is_what_lies_in_one_folder():
    assert keys({"by": "folder"}, "/in/a/1.jpg", "/in/a/2.jpg", "/in/a/b/1.jpg") == [
        "folder:/in/a",
        "folder:/in/a",
        "folder:/in/a/b",
    ]


@pytest.mark.parametrize(
    ("pattern", "path", "key"),
    [
        ("{sequence}_{n}", "/in/left_cam_0012.jpg", "pattern:/in/left_cam"),
        ("{sequence}_{n}", "/in/2026_05_01_7.png", "pattern:/in/2026_05_01"),
        ("{sequence}_{n}", "/in/0012.jpg", None),
        ("{sequence}_{n}", "/in/cam_12b.jpg", None),
        ("{sequence}_{n}.jpg", "/in/cam_12.jpg", "pattern:/in/cam"),
        ("{sequence}_{n}.jpg", "/in/cam_12.png", None),
        ("shot.{sequence}-{n}", "/in/shot.a-1.jpg", "pattern:/in/a"),
        ("shot.{sequence}-{n}", "/in/shotxa-1.jpg", None),
        ("{n}_{sequence}", "/in/7_cam.jpg", "pattern:/in/cam"),
    ],
)
def test_by_pattern_a_group_is_the_sequence_in_its_folder(pattern, path, key):
    assert keys({"by": "pattern", "pattern": pattern}, path) == [key]


def test_by_content_and_by_time_no_path_says_anything():
    assert keys({}, "/in/a.jpg") == keys({"by": "time"}, "/in/a.jpg") == [None]


@pytest.fixture
def table(tmp_path):
    def write(content, name="groups.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def by_column(table: Path, *names, others=()):
    config = {"by": "column", "column": table}
    paths = [str(table.parent / name) for name in names]
    return [key and key.removeprefix("column:") for key in keys(config, *paths, others=others)]


def test_by_column_paths_are_absolute_or_relative_to_the_table(table, tmp_path):
    path = table(f"file,group\na.jpg,one\nsub/a.jpg,two\n./b.jpg,three\n{tmp_path}/c.jpg,four\nd.jpg,\n")
    assert by_column(path, "a.jpg", "sub/a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg") == [
        "one",
        "two",
        "three",
        "four",
        None,
        None,
    ]


def test_by_column_the_end_of_a_path_is_enough_where_no_other_file_ends_so(table):
    path = table("\ufeffgroup;x,file , group\n,x/a.jpg,one\n,b.jpg,two\n,c.jpg,three\n")
    assert by_column(path, "in/x/a.jpg", "in/y/b.jpg", "in/p/c.jpg", "in/q/c.jpg") == ["one", "two", None, None]
    assert by_column(path, "in/y/b.jpg", others=["/elsewhere/b.jpg"]) == [None]
    assert by_column(path, "in/xx/a.jpg", "b.jpg", others=["/elsewhere/b.jpg"]) == [None, "two"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,group\na.jpg,x\n", "has the columns name, group; grouping needs 'file' and 'group'"),
        ("", r"has the columns \(none\)"),
        ("file,group\na.jpg,x\nb.jpg,x\na.jpg,y\n", "line 4: 'a.jpg' is in the group 'x' and in 'y'"),
        (b"file,group\n\xff,x\n", "is not UTF-8 text"),
    ],
)
def test_a_wrong_table_is_answered_with_one_sentence(table, content, said):
    with pytest.raises(UserError, match=said) as caught:
        read_groups(table(content))
    assert "groups.csv" in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"groups\.csv: the table of groups cannot be read: No such file"):
        read_groups(tmp_path / "groups.csv")


def test_a_row_that_is_too_short_names_no_group(table):
    assert read_groups(table("file,group\na.jpg\nb.jpg,x\n")) == {"b.jpg": "x"}
