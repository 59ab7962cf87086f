"""What several nodes need. Names that begin with `_`, here and in the folders beside it, hold no nodes."""
