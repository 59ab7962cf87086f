"""Discffusion (arXiv 2305.10722): a text-to-image model that says how well a picture and a caption go together."""
