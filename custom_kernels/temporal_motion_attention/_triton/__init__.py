"""Triton kernels of `temporal_motion_attention` and their launchers."""
