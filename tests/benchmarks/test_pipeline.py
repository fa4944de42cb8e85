import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_pipeline_benchmark_prints_and_writes_its_figures(tmp_path):
    output = tmp_path / "pipeline.json"
    command = [sys.executable, BENCHMARKS / "pipeline.py", "--json", output, "--images", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert result["bars"] == {"ratio": 0.95, "rerun_fraction": 0.05, "rerun_model_calls": 0}
    assert result["images"] == 2
    assert result["boxes"] > 0
    assert result["rerun_model_calls"] == 0
    assert result["ratio"] > 0
    assert result["rerun_fraction"] > 0


def test_the_code_location_is_imported_in_time_and_imports_nothing_heavy(tmp_path):
    output = tmp_path / "import_time.json"
    command = [sys.executable, BENCHMARKS / "import_time.py", "--json", output, "--runs", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert result["bars"] == {"import_seconds": 2.0}
    assert result["import_seconds"] == min(result["runs"]) > 0
    assert result["heavy_imports"] == []
