"""Names in a step's folder of checkpoints and the error of a bad one, for programs that do not read what is in them."""

DONE = "DONE"  # names the last checkpoint of a step that has ended
SECONDS = "SECONDS"  # what the step had taken at its last checkpoint, in all runs together
BEST = "BEST"  # names the checkpoint with the highest score so far, where a step keeps one


class CheckpointError(ValueError):
    """Checkpoint file that is missing, damaged, or not a checkpoint."""
