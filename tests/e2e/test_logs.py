"""What a server writes whose operator collects logs as JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from al_dagster.resources.instance import open_instance
from tests.e2e.conftest import PATIENCE_SECONDS, free_port

pytestmark = pytest.mark.slow


def test_every_process_of_the_server_logs_json_and_the_packages_also_into_the_event_log(home):
    pictures = home.pictures(3, folder="inbox/shapes")
    config = {"classes": ["disc", "bar"], "support": str(home.support), "classification": {"threshold": 0.4}}
    (pictures / "project.yaml").write_text(yaml.safe_dump(config))
    log = home.path / "server.log"
    asked = {"AL_LOG_FORMAT": "json", "AL_LOG_LEVEL": "INFO", "AL_SETTLE_SECONDS": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("al"), "ui", "--port", str(free_port())],
            env={**os.environ, **asked},
            cwd=home.path,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while '"objects registered"' not in log.read_text() or "embeddings synced" not in log.read_text():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    rows: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"dagster.code_server", "dagster.daemon.SensorDaemon", None} <= {row.get("logger") for row in rows}
    registered = [row for row in rows if row["event"] == "object_registered"]
    assert all({"object_id", "category", "confidence", "elapsed_ms"} <= row.keys() for row in registered)
    with open_instance(home.settings) as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name="label_batch"))
        entries = instance.all_logs(run.run_id)
    said = [entry.user_message for entry in entries if not entry.is_dagster_event]
    (summary,) = [text for text in said if text.startswith("objects registered")]
    assert f"objects={len(registered)}" in summary
    assert not any("object_registered" in text for text in said)
