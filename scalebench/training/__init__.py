"""Training to a result, over the one loop: schedules, validation, checkpoints, early stopping."""
