import pytest

from al_dagster.resources.pictures import NAMES, shown_picture

MADE_FROM = "0123456789abcdef"


def test_a_picture_is_drawn_once_and_found_again(tmp_path):
    drawn = []

    def draw() -> bytes:
        drawn.append(1)
        return b"content"

    first = shown_picture(tmp_path, MADE_FROM, "jpeg", draw)
    assert shown_picture(tmp_path, MADE_FROM, "jpeg", draw) == first
    assert drawn == [1]
    assert first.value == f"![](/pictures/01/{MADE_FROM}.jpeg)"
    assert (tmp_path / "01" / f"{MADE_FROM}.jpeg").read_bytes() == b"content"
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{MADE_FROM}.jpeg"]


def test_where_there_is_nothing_to_show_there_is_no_picture(tmp_path):
    assert shown_picture(tmp_path, MADE_FROM, "png", lambda: None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../al.log", "01/../../al.log", "/etc/passwd", "01/a.txt", "01/a.png/..", "", "zz/a.png"]
)
def test_only_names_of_pictures_are_served(name):
    assert NAMES.fullmatch(name) is None
    assert NAMES.fullmatch(f"01/{MADE_FROM}.png") is not None
