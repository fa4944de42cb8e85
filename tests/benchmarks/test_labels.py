import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "labels.py"


def test_the_labels_benchmark_prints_and_writes_its_figures(tmp_path):
    output = tmp_path / "labels.json"
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", str(output), "--images", "20", "--runs", "1"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert json.loads(run.stdout) == result
    assert (result["images"], result["objects"]) == (20, 80)
    figures = result["images_per_cpu_second"]
    assert set(figures) == {"al_dagster"}
    assert set(figures["al_dagster"]) == {"yolo", "yolo-seg", "coco", "coco_exact_polygons", "copying_images"}
    assert min(figures["al_dagster"].values()) > 0
