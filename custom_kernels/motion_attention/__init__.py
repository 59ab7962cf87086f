"""Cross-attention that measures and moves words in boxes: `reference.py` defines it, `op.py` runs it."""
