"""Ctrl-C, also where it is held back: Dagster does so in a run, except inside the function of an asset."""

import contextlib
import signal
import socket

_reader, _writer = socket.socketpair()
_reader.setblocking(False)
_writer.setblocking(False)
_came = False


def watch() -> None:
    """From now on, note every Ctrl-C, whoever handles it."""
    signal.set_wakeup_fd(_writer.fileno(), warn_on_full_buffer=False)


def interrupted() -> bool:
    """Whether Ctrl-C was pressed since it is watched for."""
    global _came
    with contextlib.suppress(BlockingIOError):
        _came = _came or signal.SIGINT in _reader.recv(4096)
    return _came
