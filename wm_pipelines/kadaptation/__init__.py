"""KAdaptation (arXiv 2203.16329): a CLIP image tower fitted to a few labelled pictures by a Kronecker adapter."""
