"""The dynamics model: which action leads from one picture to the next (CDM in the first version of arXiv 2506.06006,
IDM in the third)."""
