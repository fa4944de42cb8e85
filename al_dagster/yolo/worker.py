"""The process of ultralytics: ``python -m al_dagster.yolo.worker train|predict|detect JOB.json``.

It alone imports ultralytics, so that its licence, its globals and its crashes stay in a process of their own. It
answers in lines of JSON on standard output, where it also sends what is logged; everything that the libraries print
goes to standard error. Requests, which only ``detect`` has, come on standard input. When that is closed, that is, when
the process that started it is gone, it removes the folder that the job calls ``scratch``, if it names one, and ends
with whatever it has started.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue

from al_dagster.yolo.jobs import JOBS, Emit
from al_dagster.yolo.library import RefusedError, prepare_library
from al_dagster.yolo.wire import Request, read_request

LIBRARY = "ultralytics"
"""The name of its logger, which hands nothing on to the root."""


class _Sent(logging.Handler):
    """Sends what is logged to the parent: warnings as what was done, for it stops at an error; the rest as details."""

    def __init__(self, emit: Emit) -> None:
        super().__init__()
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record without its stack trace."""
        level = logging.INFO if record.levelno >= logging.WARNING else logging.DEBUG
        try:
            self._emit({"event": "log", "level": level, "text": record.getMessage().strip()})
        except Exception:
            self.handleError(record)


def main(arguments: list[str]) -> int:
    """Do the job described by a JSON file and return the exit status."""
    mode, job_file = arguments
    emit = _answer_channel()
    requests: SimpleQueue[Request] = SimpleQueue()
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    threading.Thread(target=_listen, args=(requests, job.get("scratch")), daemon=True).start()
    prepare_library()
    for name in (None, LIBRARY):
        logging.getLogger(name).addHandler(_Sent(emit))
    try:
        result = JOBS[mode](job, emit, requests)
    except RefusedError as error:
        result = {"refused": str(error)}
    emit({"event": "result", **result})
    return 0


def _answer_channel() -> Emit:
    """Keep standard output for answers and send whatever else is printed to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    lock = threading.Lock()

    def emit(message: dict[str, object]) -> None:
        with lock:
            channel.write(json.dumps(message) + "\n")

    return emit


def _listen(requests: "SimpleQueue[Request]", scratch: str | None) -> None:
    """Take requests as they come, and leave at once when no more can come, whatever the process is doing."""
    try:
        # Not sys.stdin: the interpreter locks that when it ends, while this thread still reads it.
        stream = os.fdopen(os.dup(0), "rb")
        while (request := read_request(stream)) is not None:
            requests.put(request)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        # Of its own group, if it has one: a shell's is not ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpid(), signal.SIGKILL)
    except BaseException:
        traceback.print_exc()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
