"""How far a long step has come: work reports, and whoever shows it listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Called with the name of the step, the units done and the units in all."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("progress_listeners", default=())


def report(step: str, done: int, total: int) -> None:
    """Tell the listeners that ``done`` of ``total`` units of a step are done."""
    for listener in _listeners.get():
        listener(step, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this context, call the listener at every report made in the same thread."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
