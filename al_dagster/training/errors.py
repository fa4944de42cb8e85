"""What stops a training."""


class TrainingError(RuntimeError):
    """The training process failed for a reason that is not the user's; the message ends with its last lines."""
