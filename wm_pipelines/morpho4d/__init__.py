"""Morpho4D (arXiv 2510.04390): scenes in time, made of moving Gaussians, that are edited object by object."""
