"""The world model: the picture after an action said in words (CWM in the first version of arXiv 2506.06006, FDM in
the third)."""
