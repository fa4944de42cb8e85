import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "one_image.py"


def _run(*arguments):
    command = [sys.executable, BENCHMARK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_one_drawn_photo_is_timed_cold_and_warm(tmp_path):
    output = tmp_path / "one_image.json"
    run = _run("--json", output, "--repeats", 2)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert result["bars"] == {"cold_seconds": 3.0, "warm_seconds": 3.0}
    assert (result["width"], result["height"]) == (1024, 768)
    assert result["proposals"] >= result["named"] > 0
    assert len(result["warm_runs"]) == 2
    assert result["cold_seconds"] > result["prepare_seconds"] > 0


def test_a_photo_that_is_not_there_is_named(tmp_path):
    run = _run("--image", tmp_path / "none.jpg")
    assert run.returncode == 1
    assert "none.jpg: there is no such file; give a photo" in run.stderr
