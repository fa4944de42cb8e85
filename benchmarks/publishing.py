"""What every benchmark does with its figures: add the machine, print them as JSON and write them to a file."""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that still run, such as the one that runs Chroma."""
    started = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(times.user + times.system for times in started)


def publish(figures: dict[str, Any], output: Path | None, packages: tuple[str, ...] = (), **machine: Any) -> None:
    """Print figures and, where a file is given, write them.

    Args:
        figures: what was measured.
        output: the file, or None.
        packages: those whose versions matter.
        machine: more about the machine than is told anyway.
    """
    figures["machine"] = {
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
        **machine,
    }
    if packages:
        figures["versions"] = {name: version(name) for name in packages}
    text = json.dumps(figures, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
