import tempfile

import pytest

from al_dagster.core.paths import plain_path
from al_dagster.core.settings import Settings


@pytest.mark.parametrize("name", ["plain", "with space", "[1] (2) #3 100%", "한글"])
def test_a_path_that_libraries_can_take_is_left_as_it_is(tmp_path, name):
    assert plain_path(tmp_path / name) == tmp_path / name
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["it's", "what?"])
def test_a_path_that_libraries_trip_over_is_reached_by_a_link(tmp_path, name, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    link = plain_path(tmp_path / name)
    assert not set("'?") & set(str(link))
    assert link.resolve() == (tmp_path / name).resolve()
    assert link.parent.stat().st_mode & 0o777 == 0o700
    link.unlink()
    link.symlink_to(tmp_path)
    assert plain_path(tmp_path / name).readlink() == tmp_path / name
    assert Settings(home=tmp_path / name).scratch_dir.parent == link.parent
    assert len({plain_path(tmp_path / f"{place}?") for place in range(3)}) == 3
