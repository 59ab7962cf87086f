"""A linear map plus a sum of Kronecker products: `reference.py` defines it, `op.py` runs it."""
