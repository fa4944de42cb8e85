import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.datasets.names import MAX_BYTES, export_names

stems = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=100)
tricky = st.sampled_from(["a", "A", "é", "é", "ß", "ss", "ﬁ", "fi", "CON", ".", "..", " ", "a_p0002", "x" * 300])
files = st.lists(st.tuples(st.one_of(stems, tricky), st.integers(0, 3)), min_size=1, max_size=12)


def names_of(entries: list[tuple[str, int]]) -> tuple[str, ...]:
    ids = [f"src_{index:012x}".translate(str.maketrans("0189", "wxyz")) for index in range(len(entries))]
    return export_names([f"/photos/{stem}.png" for stem, _ in entries], ids, [page for _, page in entries])


def as_any_file_system_sees_it(name: str) -> str:
    return unicodedata.normalize("NFD", name.casefold())


@given(files)
def test_names_are_safe_and_no_two_are_the_same_on_any_file_system(entries):
    names = names_of(entries)

    assert len({as_any_file_system_sees_it(name) for name in names}) == len(entries)
    for name in names:
        assert 0 < len(name.encode()) <= MAX_BYTES
        assert name.isprintable()
        assert not set(name) & set('<>:"/\\|?*')
        assert name[0] not in ". "
        assert name[-1] not in ". "


@given(files, st.randoms())
def test_names_do_not_depend_on_the_order_of_the_images(entries, random):
    ids = [f"src_{index:012d}" for index in range(len(entries))]
    images = list(zip([f"/{stem}.png" for stem, _ in entries], ids, [page for _, page in entries], strict=True))
    shuffled = random.sample(images, len(images))

    def by_id(images: list[tuple[str, str, int]]) -> dict[str, str]:
        return dict(zip([image[1] for image in images], export_names(*zip(*images, strict=True)), strict=True))

    assert by_id(images) == by_id(shuffled)


@pytest.mark.parametrize(
    ("path", "page", "name"),
    [
        ("/a/photo 12.JPG", 0, "photo 12"),
        ("/a/photo.v2.png", 0, "photo.v2"),
        ("/a/scan.tif", 1, "scan_p0002"),
        ("/a/.hidden.png", 0, "_hidden"),
        ("/a/what?.png", 0, "what_"),
        ("/a/tab\there.png", 0, "tab_here"),
        ("/a/nul.png", 0, "_nul"),
        ("/a/ .png", 0, "_"),
        ("/a/너트.png", 0, "너트"),
        ("/a/end. ..png", 0, "end"),
    ],
)
def test_a_name_is_that_of_the_file_made_safe(path: str, page: int, name: str):
    assert export_names([path], ["src_abc"], [page]) == (name,)


def test_only_names_that_meet_get_the_characters_of_their_source():
    paths = ["/a/photo.png", "/b/PHOTO.jpg", "/b/other.jpg"]

    assert export_names(paths, ["src_one", "src_two", "src_six"], [0, 0, 0]) == ("photo_one", "PHOTO_two", "other")
