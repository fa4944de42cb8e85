"""The errors that a user can cause, and what an error came from."""

from collections.abc import Iterator


class UserError(Exception):
    """Something the user can put right: one sentence saying what is wrong, where, and what to do.

    The command line prints it without a stack trace and exits with status 2.
    """


class DamagedTableError(UserError):
    """A table of the lake that is not as it was written; its message says which command makes it anew."""


class UnreadableFileError(UserError):
    """A file that cannot become a source; its message is the reason shown beside the quarantined file."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, those that it was raised from or while they were handled, and those that they wrap."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "orig", None))
        waiting += [other for other in inner if isinstance(other, BaseException)]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
