"""Fused operations, a folder each, to be imported through `wm_pipelines.kernels`. A torch reference defines each."""
