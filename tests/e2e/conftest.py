"""The Dagster webserver and daemon as a person starts them, in a home of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from al_dagster.core.settings import load_settings
from al_dagster.resources.instance import open_instance

PATIENCE_SECONDS = 150.0


@dataclass(frozen=True)
class Server:
    """A running webserver: its address, and what it answers."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]

    def wait_for(self, what: str, ask: Any) -> Any:
        """Ask until there is an answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if answer := ask():
                    return answer
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.5)
        raise AssertionError(
            f"no {what} within {PATIENCE_SECONDS:g} s; the log ends with\n{self.log.read_text()[-3000:]}"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, support_folder: Path, shapes, save_picture) -> Iterator[Server]:
    """`al ui` over a home whose inbox holds a project with four pictures."""
    home = tmp_path_factory.mktemp("server") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AL_HOME", str(home))
        patch.setenv("AL_SETTLE_SECONDS", "0")
        patch.delenv("DAGSTER_HOME", raising=False)
        settings = load_settings()
        inbox = settings.inbox / "shapes"
        for seed in range(4):
            save_picture(inbox / f"picture_{seed}.png", shapes(seed))
        config = {"classes": ["disc", "bar"], "support": str(support_folder), "classification": {"threshold": 0.4}}
        (inbox / "project.yaml").write_text(yaml.safe_dump(config))
        open_instance(settings).dispose()
        environment = dict(os.environ)
    port = free_port()
    log = home / "server.log"
    command = [Path(sys.executable).with_name("al"), "ui", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield Server(f"http://127.0.0.1:{port}", log, process)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
