"""How long the code location takes to import in a fresh process; the best of several counts, on a busy machine too.

python benchmarks/import_time.py --json import_time.json
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from publishing import publish

BARS = {"import_seconds": 2.0}
HEAVY = ("torch", "transformers", "ultralytics", "mlflow", "chromadb")
CODE = f"""
import sys, time
started = time.perf_counter()
import al_dagster.definitions
print(time.perf_counter() - started, *(name for name in {HEAVY!r} if name in sys.modules))
"""


def measure() -> tuple[float, list[str]]:
    """Seconds of one import, and the heavy packages that it imported."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    return float(seconds), heavy


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes")
    options = parser.parse_args(arguments)
    runs = [measure() for _ in range(options.runs)]
    result = {
        "import_seconds": round(min(seconds for seconds, _ in runs), 3),
        "bars": BARS,
        "runs": [round(seconds, 3) for seconds, _ in runs],
        "heavy_imports": sorted({name for _, heavy in runs for name in heavy}),
    }
    publish(result, options.json)


if __name__ == "__main__":
    main()
