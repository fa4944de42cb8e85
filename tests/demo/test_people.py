import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from al_dagster.demo.people import EMPTY, TEXT, TRUNCATED, collect_people


def test_photographs_open_and_odd_files_do_not(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    collected = collect_people(tmp_path)
    assert "grace_hopper.jpg" in {path.name for path in collected.photos}
    for path in collected.photos:
        with Image.open(path) as photo:
            photo.load()
            assert min(photo.size) >= 400
    assert {path.name for path in collected.odd} == {EMPTY, TEXT, TRUNCATED}
    assert (tmp_path / EMPTY).stat().st_size == 0
    for path in collected.odd:
        with pytest.raises(OSError, match=r"cannot identify|truncated"), Image.open(path) as photo:
            photo.load()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (*collected.photos, *collected.odd)}


def test_collecting_again_touches_nothing(tmp_path: Path) -> None:
    first = collect_people(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert collect_people(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps


def test_a_package_that_is_not_installed_is_named_and_the_rest_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "al_dagster.demo.people.find_spec", lambda name: None if name == "ultralytics" else find_spec(name)
    )
    collected = collect_people(tmp_path)
    assert collected.missing[:2] == [
        "bus.jpg is left out: ultralytics is not installed",
        "zidane.jpg is left out: ultralytics is not installed",
    ]
    assert not (tmp_path / "bus.jpg").exists()
    assert (tmp_path / EMPTY).exists()


def test_collecting_imports_none_of_the_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from al_dagster.demo.people import collect_people;"
        f"collect_people(Path({str(tmp_path)!r}));"
        "sys.exit(bool({'ultralytics', 'matplotlib', 'sklearn', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
