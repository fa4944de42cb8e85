"""The errors that a user can cause."""


class UserError(Exception):
    """Something the user can put right: one sentence saying what is wrong, where, and what to do.

    The command line prints it without a stack trace and exits with status 2.
    """


class DamagedTableError(UserError):
    """A table of the lake that is not as it was written; its message says which command makes it anew."""


class UnreadableFileError(UserError):
    """A file that cannot become a source; its message is the reason shown beside the quarantined file."""
