"""Attention over the frames of a pixel: `reference.py` defines it, `op.py` runs it."""
