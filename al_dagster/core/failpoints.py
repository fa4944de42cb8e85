"""Failpoints: named places in the code where a test has the process end, as if somebody had killed it there.

Outside tests nothing is set and ``reach`` does nothing. See "fail points" in
https://www.freebsd.org/cgi/man.cgi?query=fail for the idea.
"""

from collections.abc import Callable

_actions: dict[str, Callable[[], None]] = {}


def reach(place: str) -> None:
    """Say that this place is reached; does what was set for it.

    Args:
        place: what is so at this place, such as ``objects committed``.
    """
    action = _actions.get(place)
    if action is not None:
        action()


def set_failpoint(place: str, action: Callable[[], None]) -> None:
    """Have something done each time a place is reached, by any thread of this process.

    Args:
        place: as the code names it.
        action: what is done; what it raises is raised at the place.

    Example:
        >>> set_failpoint("objects committed", lambda: os.kill(os.getpid(), signal.SIGKILL))  # doctest: +SKIP
    """
    _actions[place] = action


def clear_failpoints() -> None:
    """Have nothing done anywhere."""
    _actions.clear()
