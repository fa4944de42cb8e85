import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "register.py"


def test_the_register_benchmark_prints_and_writes_its_figures(tmp_path):
    output = tmp_path / "register.json"
    sizes = ["--objects", "50", "--embedded-objects", "30", "--batch", "20", "--runs", "1"]
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", str(output), *sizes],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert result["objects_per_s"] > 0
    assert result["objects_per_s_with_embeddings"] > 0
    assert (result["objects"], result["embedded_objects"], result["batch"], result["dimension"]) == (50, 30, 20, 768)
    assert result["bars"] == {"objects_per_s": 20_000, "objects_per_s_with_embeddings": 1_500}
    assert result["machine"]["cpus"] >= 1
