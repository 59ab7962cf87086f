"""Multiple choice about videos: whether a model sees them, or guesses."""
