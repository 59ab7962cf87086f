"""A small video-language model of the miniature world, its training on questions about clips, and a demonstration."""
