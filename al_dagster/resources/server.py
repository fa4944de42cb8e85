"""The server of a home as a process: code server, daemon and webserver, which end together.

``python -m al_dagster.resources.server --port PORT`` is what ``al ui`` starts.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import yaml

from al_dagster.core.settings import Settings, load_settings

DEFINITIONS = "al_dagster.definitions"
LOOK_EVERY_SECONDS = 0.3
STOP_SECONDS = 20.0


class _Stopped(BaseException):
    """A signal asked this process to end."""


def main() -> int:
    """Run the three processes until one of them ends, a signal comes, or the process that started this one is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--keep-open", type=int, nargs="*", default=[], help="file descriptors that each process keeps")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # Of the process that the code server starts, which is not told the format.
    os.environ["DAGSTER_CLI_API_GRPC_LOG_FORMAT"] = _log_format(load_settings())
    parent = os.getppid()
    running: dict[str, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="al_ui_") as folder:
        try:
            for name, command in _commands(Path(folder), given.host, given.port).items():
                running[name] = subprocess.Popen(command, pass_fds=given.keep_open)
                if name == "code server":
                    _wait_for(Path(folder) / "code.sock", running[name], parent)
            while os.getppid() == parent:
                ended = [name for name, process in running.items() if process.poll() is not None]
                if ended:
                    sys.stderr.write(f"the {ended[0]} of the Dagster UI has ended; the others are stopped\n")
                    return 1
                time.sleep(LOOK_EVERY_SECONDS)
            return 1
        except _Stopped:
            return 0
        finally:
            _end(running)


def _commands(folder: Path, host: str, port: str) -> Mapping[str, Sequence[str]]:
    """The command of each process, the one that the others need first."""
    socket, workspace = folder / "code.sock", folder / "workspace.yaml"
    server = {"grpc_server": {"socket": str(socket), "location_name": DEFINITIONS}}
    workspace.write_text(yaml.safe_dump({"load_from": [server]}))
    dagster = [sys.executable, "-m", "dagster"]
    settings = load_settings()
    # As ``configure_logging`` does for a quiet process.
    level = settings.log_level.lower() if "log_level" in settings.model_fields_set else "warning"
    quiet = ["--log-level", level, "--log-format", _log_format(settings)]
    return {
        "code server": [
            *dagster, "code-server", "start", "--module-name", DEFINITIONS, "--socket", str(socket),
            "--use-python-environment-entry-point", *quiet,
        ],
        "daemon": [sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace), *quiet],
        "webserver": [
            sys.executable, "-m", "al_dagster.resources.webserver", "--host", host, "--port", port,
            "--workspace", str(workspace),
        ],
    }  # fmt: skip


def _log_format(settings: Settings) -> str:
    """What Dagster calls the format."""
    return "json" if settings.log_format == "json" else "colored"


def _wait_for(socket: Path, process: "subprocess.Popen[bytes]", parent: int) -> None:
    while not socket.exists() and process.poll() is None and os.getppid() == parent:
        time.sleep(LOOK_EVERY_SECONDS)


def _end(running: "Mapping[str, subprocess.Popen[bytes]]") -> None:
    """End the processes, the webserver first, and whatever does not end by itself the hard way."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(list(running.values())):
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + STOP_SECONDS
    for process in running.values():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


if __name__ == "__main__":
    sys.exit(main())
