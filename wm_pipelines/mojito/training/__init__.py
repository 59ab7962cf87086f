"""Training of motion adapters and intensity models: one task, a source of clips in a file of its own."""
