import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bccd.py"
DATA = Path(__file__).parents[3] / "shared" / "data" / "bccd"


def _run(*arguments):
    command = [sys.executable, BENCHMARK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_blood_cells_are_labelled_by_example_and_counted_by_class(tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"the BCCD photos are not in {DATA}")
    output = tmp_path / "bccd.json"
    run = _run("--json", output, "--images", 4)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert result["photos"]["tested"] == 4
    assert result["photos"]["first_tested"] == "BloodImage_00037.jpg"
    assert max(result["photos"]["examples_from"]) < "BloodImage_00037.jpg"
    assert set(result["classes"]) == {"RBC", "WBC", "Platelets"}
    for counts in result["classes"].values():
        assert counts["tp"] + counts["fn"] == counts["objects"] > 0
        found = counts["tp"] + counts["fp"]
        assert counts["precision"] == pytest.approx(counts["tp"] / found if found else 0, abs=1e-4)
        assert counts["recall"] == pytest.approx(counts["tp"] / counts["objects"], abs=1e-4)
    cells = result["classes"]["RBC"]
    assert cells["proposed"] / cells["objects"] > 0.3
    assert cells["tp"] > 0


def test_without_the_photos_one_sentence_says_what_to_do(tmp_path):
    run = _run("--data", tmp_path)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.strip().endswith("give the folder of the BCCD photos with --data")
    assert len(run.stderr.strip().splitlines()) == 1
