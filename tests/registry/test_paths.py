from al_dagster.registry.batches import FileEntry, claim_files
from al_dagster.registry.paths import seen_files
from al_dagster.registry.tables import BatchFile, Frame


def see(registry, frame: str, project: str, path: str, size: int = 1) -> None:
    """Note that a project saw the frame's source at a path."""
    (key,) = claim_files(registry, project, [FileEntry(path, size, 7)], 10)
    with registry.session() as session:
        source = session.get_one(Frame, frame).source_id
        session.query(BatchFile).filter_by(batch_key=key).update({"source_id": source, "status": "ready"})


def paths(registry, frame: str, project: str | None) -> list[str]:
    with registry.reader() as session:
        source = session.get_one(Frame, frame).source_id
    return [file.file_path for file in seen_files(registry, [source, "src_none"], project).get(source, [])]


def test_the_project_s_own_paths_come_first_then_those_seen_last(registry, new_frame):
    frame = new_frame()
    for project, path in (("a", "/a/1"), ("b", "/b/1"), ("a", "/a/2"), ("b", "/b/2")):
        see(registry, frame, project, path)
    assert paths(registry, frame, "a") == ["/a/2", "/a/1", "/b/2", "/b/1"]
    assert paths(registry, frame, "b") == ["/b/2", "/b/1", "/a/2", "/a/1"]
    assert paths(registry, frame, None) == ["/b/2", "/a/2", "/b/1", "/a/1"]


def test_a_path_that_was_seen_twice_comes_once_as_it_was_seen_last(registry, new_frame):
    frame = new_frame()
    see(registry, frame, "a", "/a/1", size=1)
    see(registry, frame, "a", "/a/1", size=2)
    with registry.reader() as session:
        source = session.get_one(Frame, frame).source_id
    assert [file.size_bytes for file in seen_files(registry, [source], "a")[source]] == [2]


def test_a_source_that_no_project_saw_has_no_path(registry, new_frame):
    assert paths(registry, new_frame(), "a") == []


def test_a_path_that_something_else_was_seen_at_since_comes_last(registry, new_frame):
    frame, other = new_frame(), new_frame()
    see(registry, frame, "a", "/a/1")
    see(registry, frame, "b", "/b/1")
    see(registry, frame, "a", "/a/2", size=1)
    see(registry, other, "a", "/a/2", size=2)
    assert paths(registry, frame, "a") == ["/a/1", "/b/1", "/a/2"]
    assert paths(registry, other, "a") == ["/a/2"]
