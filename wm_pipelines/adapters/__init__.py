"""Parameter-efficient adapters shared by several methods."""
