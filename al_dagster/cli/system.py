"""``al demo`` and ``al ui``."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from al_dagster.cli.output import Json, print_json, progress_bars, say
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.core.settings import Settings

HOST = "127.0.0.1"
LOOK_EVERY_SECONDS = 0.3
STOP_SECONDS = 30.0
STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(ui)


def demo(as_json: Json = False) -> None:
    """Run the whole platform on two small projects: real photos of people, and drawn scenes of machine parts.

    It takes some minutes the first time, and uses again what stands when it is repeated.
    """
    from al_dagster.cli.demo import show_outcome
    from al_dagster.core.settings import load_settings
    from al_dagster.demo.run import run_demo
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    outcome = run_demo(load_settings(), lambda title: progress_bars(not as_json, title=title, lines=True))
    if as_json:
        print_json(outcome)
    else:
        show_outcome(outcome)


def ui(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; default AL_PORT or 3000.")
    ] = None,
) -> None:
    """Start the Dagster UI with its daemon on this machine, until Ctrl-C.

    The daemon watches the inbox, rebuilds datasets and reconciles the vector store.
    """
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    chosen = port or settings.port
    lock = _lock_home(settings, f"http://{HOST}:{chosen}")
    _check_free(chosen)
    with progress_bars(title="starting the Dagster UI"):
        from al_dagster.resources.instance import open_instance

        settings.inbox.mkdir(parents=True, exist_ok=True)
        open_instance(settings, server_stopped=True).dispose()
    command = [sys.executable, "-m", "al_dagster.resources.server", "--keep-open", str(lock)]
    # In a session of its own, so that Ctrl-C reaches it once, from here, and all it started can be ended with it.
    process = subprocess.Popen(
        [*command, "--host", HOST, "--port", str(chosen)],
        cwd=os.environ["DAGSTER_HOME"],
        env={**os.environ, **_absolute_paths(settings)},
        stdout=sys.stderr,
        start_new_session=True,
        pass_fds=[lock],
    )
    stopped = _pass_on_signals(process)
    try:
        if _wait_until_served(process, chosen):
            say(f"Dagster UI: http://{HOST}:{chosen}")
            say(f"Inbox:      {settings.inbox}")
            say("Ctrl-C stops it.")
            sys.stdout.flush()
        status = process.wait()
    finally:
        _end_group(process)
    raise typer.Exit(0 if stopped else status)


def _lock_home(settings: "Settings", address: str) -> int:
    """Hold the home as long as this process or one that it starts lives; the descriptor of the lock.

    Raises:
        UserError: a server of this home is running; says where.
    """
    path = settings.home / "ui.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        first = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another port"
        os.close(descriptor)
        raise UserError(
            f"the Dagster UI of {settings.home.absolute()} is running already: {first}; open it there, or stop it first"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{address} (process {os.getpid()})\n".encode(), 0)
    return descriptor


def _absolute_paths(settings: "Settings") -> dict[str, str]:
    """The settings that may hold a path relative to this folder, for a process that works in another one."""
    found = {"AL_INBOX": str(settings.inbox)}
    if settings.lake_path and "://" not in settings.lake_path:
        found["AL_LAKE"] = str(Path(settings.lake_path).absolute())
    for variable, address in (("AL_REGISTRY_URL", settings.registry_url), ("AL_MLFLOW_URI", settings.mlflow_uri)):
        if address and address.startswith("sqlite:///"):
            found[variable] = f"sqlite:///{Path(address.removeprefix('sqlite:///')).absolute()}"
    return found


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): stop what uses it, "
                f"or give another, such as `al ui --port {port + 1 if port < 65535 else 3000}`"
            ) from None


def _pass_on_signals(process: "subprocess.Popen[bytes]") -> list[int]:
    """Let every signal that would end this process end the server first; the list says which came."""
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if came and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        elif process.poll() is None:
            process.send_signal(signal.SIGINT)
            signal.alarm(int(STOP_SECONDS))
        came.append(number)

    for number in STOPPED_BY:
        signal.signal(number, pass_on)
    signal.signal(signal.SIGALRM, lambda number, frame: _end_group(process))
    return came


def _wait_until_served(process: "subprocess.Popen[bytes]", port: int) -> bool:
    while process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(LOOK_EVERY_SECONDS)
        else:
            return True
    return False


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End whatever the server has started and left behind."""
    signal.alarm(0)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
