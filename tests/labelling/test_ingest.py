import os

from al_dagster.labelling.intake import take_folder
from al_dagster.registry.sources import quarantined_files


def test_files_become_sources_and_sources_become_frames(chain):
    result = chain.sources()
    assert result.table["status"].to_pylist() == ["ready", "ready"]
    assert (result.computed, result.reused) == (2, 0)
    assert result.figures == {"files": 2, "ready": 2, "quarantined": 0, "duplicates": 0}
    frames = chain.frames().table
    assert frames["source_id"].to_pylist() == result.table["source_id"].to_pylist()
    assert set(frames["width"].to_pylist()) == {160}


def test_files_that_stand_as_they_were_claimed_are_not_read_again(chain):
    first = chain.sources()
    again = chain.sources()
    assert (again.computed, again.reused) == (0, 2)
    assert again.table.equals(first.table)


def test_a_file_that_changed_after_its_claim_is_quarantined_and_the_others_go_on(chain, shapes, save_picture, home):
    changed = save_picture(home.path / "images" / "picture_0.png", shapes(77))
    result = chain.sources()
    rows = {row["file_path"]: row for row in result.table.to_pylist()}
    assert rows[str(changed)]["status"] == "quarantined"
    assert "changed after it was taken" in rows[str(changed)]["reason"]
    assert chain.frames().table.num_rows == 1


def test_the_new_version_of_a_changed_file_is_taken_by_the_next_batch(chain, shapes, save_picture, home):
    changed = save_picture(home.path / "images" / "picture_0.png", shapes(77))
    chain.sources()
    chain.up_to("objects")
    keys = take_folder(chain.registry, home.path / "images", chain.project, batch_size=256)
    assert len(keys) == 1
    chain.key = keys[0]
    chain.tables.clear()
    result = chain.sources()
    assert result.table["file_path"].to_pylist() == [str(changed)]
    assert result.table["status"].to_pylist() == ["ready"]
    assert quarantined_files(chain.registry) == []


def test_a_file_that_vanished_is_quarantined(chain, home):
    (home.path / "images" / "picture_1.png").unlink()
    result = chain.sources()
    assert result.table["status"].to_pylist() == ["ready", "quarantined"]
    assert result.figures["quarantined"] == 1


def test_a_quarantined_file_that_is_back_is_taken_when_the_batch_runs_again(chain, home):
    path = home.path / "images" / "picture_1.png"
    content, changed = path.read_bytes(), path.stat().st_mtime_ns
    path.unlink()
    assert chain.sources().figures["quarantined"] == 1
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))
    again = chain.sources()
    assert again.figures["quarantined"] == 0
    assert (again.computed, again.reused) == (1, 1)


def test_the_same_bytes_under_a_second_name_are_a_duplicate_in_this_batch_and_in_a_later_one(chain, home):
    images = home.path / "images"
    chain.sources()
    for name in ("copy.png", "copy of the copy.png"):
        (images / name).write_bytes((images / "picture_1.png").read_bytes())
    (chain.key,) = take_folder(chain.registry, images, chain.project, batch_size=256)[1:]
    chain.tables.clear()
    rows = chain.sources().table.to_pylist()
    assert [row["status"] for row in rows] == ["duplicate", "duplicate"]
    assert {row["reason"] for row in rows} == {f"same content as {images / 'picture_1.png'}"}
    assert chain.frames().table.num_rows == 0
    assert chain.sources().table.to_pylist() == rows


def test_a_batch_in_which_nothing_can_be_read_still_goes_through(chain, home):
    for path in (home.path / "images").iterdir():
        path.write_bytes(b"no picture")
    assert chain.up_to("objects").table.num_rows == 0
