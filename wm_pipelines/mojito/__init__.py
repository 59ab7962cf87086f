"""Mojito (arXiv 2412.08948): text to video whose objects follow boxes or paths, with a dial for how much moves."""
