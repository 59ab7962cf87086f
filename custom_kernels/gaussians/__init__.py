"""Gaussians in the picture plane, blended front to back over small tiles."""
