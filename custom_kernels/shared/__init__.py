"""Of several operations: which code runs them, boxes as weights of cells, and the dtype of sums."""
