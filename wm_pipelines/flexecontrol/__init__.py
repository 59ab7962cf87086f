"""FlexEControl: any number of spatial conditions on one frozen text-to-image model (arXiv 2405.04834)."""
