"""Multimodal Graph Transformer (arXiv 2305.00581, EACL 2023): attention along a graph of words and regions."""
