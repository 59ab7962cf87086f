"""Morpho4D's nodes: scenes in time are fitted, edited, rendered and written to files."""

from .._shared.loading import collect

NODES = collect(__name__, __path__)
