"""Fused operations. Import them through `wm_pipelines.kernels`; the torch reference is the definition."""
