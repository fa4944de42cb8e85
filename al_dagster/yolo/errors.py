"""What stops the process of ultralytics."""


class YoloError(RuntimeError):
    """The process failed for a reason that is not the user's; the message ends with its last lines."""
