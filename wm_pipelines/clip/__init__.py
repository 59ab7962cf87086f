"""A stock CLIP as a base: its parts, and its two towers as functions."""
