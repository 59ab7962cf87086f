"""Triton kernels of `kronecker_linear` and their launchers."""
