"""MMWorld (arXiv 2406.08407, ICLR 2025): questions about videos of seven disciplines."""
