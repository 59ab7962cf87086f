"""The miniature world: scenes, motion, renderer, language and data sets whose truth is exact."""
