"""Files of moving Gaussians that open elsewhere: PLY, SPZ, .splat, GLB, .4dgs, and a page with a viewer of its own."""
