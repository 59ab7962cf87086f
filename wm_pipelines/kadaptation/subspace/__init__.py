"""Subspace training and local intrinsic dimension: how few directions a part of a network needs to learn a task."""
