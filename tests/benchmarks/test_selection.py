import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "selection.py"


def test_the_selection_benchmark_prints_and_writes_its_figures(tmp_path):
    output = tmp_path / "selection.json"
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", str(output), "--objects", "50", "90", "--runs", "1"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert [(size["objects"], size["images"]) for size in result["sizes"]] == [(50, 13), (90, 23)]
    for size in result["sizes"]:
        for part in ("select_and_split", "write_to_lake", "rows_of_the_registry"):
            assert set(size[part]) == {"seconds", "cpu_seconds"}
            assert size[part]["seconds"] > 0
    assert result["machine"]["cpus"] >= 1
