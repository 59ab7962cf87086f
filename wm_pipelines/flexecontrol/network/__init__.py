"""What the adapter is made of, and what it takes from its base; `modeling.py` puts it together."""
