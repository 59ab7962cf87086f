"""From prepared conditions to what acts at each step of the sampling: residuals, phrases in the attention, tokens."""
