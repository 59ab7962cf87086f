"""How well: intervals (without torch), and what a classifier said, as files."""
