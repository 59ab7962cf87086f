"""Mojito's nodes: trajectories, sampling under them, what was measured, and the steering of native models."""

from .._shared.loading import collect

NODES = collect(__name__, __path__)
