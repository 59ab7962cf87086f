"""Triton kernels of `motion_attention` and their launchers."""
