import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "incremental.py"


def test_the_incremental_benchmark_prints_and_writes_its_figures(tmp_path):
    output = tmp_path / "incremental.json"
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", str(output), "--objects", "50", "--images", "90", "--runs", "2"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert (result["sensor"]["objects"], result["groups"]["images"], result["batch"]) == (50, 90, 1000)
    parts = {
        "sensor": ("first_tick", "tick_with_nothing_changed"),
        "groups": ("all_images", "a_batch_more"),
    }
    for name, figures in parts.items():
        for part in figures:
            assert set(result[name][part]) == {"seconds", "cpu_seconds"}
    assert result["machine"]["cpus"] >= 1
