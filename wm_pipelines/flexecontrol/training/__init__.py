"""Training: the task, its losses, what a sample is shown, and a source for each kind of data."""
