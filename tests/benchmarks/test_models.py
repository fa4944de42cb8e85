import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """The benchmark of the foundation models with tiny networks."""
    output = tmp_path_factory.mktemp("models") / "models.json"
    command = [sys.executable, BENCHMARKS / "models.py", "--scale", "tiny", "--device", "cpu", "--json", output]
    # Two processes of the suite share the machine; a thread each.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(output.read_text())


def test_the_figures_say_what_was_measured(measured):
    assert measured["options"]["scale"] == "tiny"
    assert measured["objects_per_image"] == 8
    assert measured["generated_tokens_per_image"] == measured["options"]["tokens"]
    assert measured["image_px"] == [1024, 768]
    assert measured["bars"] == {"ratio": {"cuda": 0.9, "cpu": 0.85}, "chain_images_per_min": {"cuda": 1000}}
    assert measured["ratio"] > 0
    assert measured["chain_left_out"] is None
    assert measured["bare_images_per_min"] > 0 < measured["chain_images_per_min"]
    assert measured["load_seconds"]["chain"] > 0 < measured["peak_memory_mb"]["chain"]
