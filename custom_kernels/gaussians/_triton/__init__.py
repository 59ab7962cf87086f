"""The kernels of `composite_gaussians`."""
