"""Conditions from their statement to maps at the output's size, and what they disagree about."""
