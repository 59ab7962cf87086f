"""The bases that Mojito steers: families of denoisers, the stock pipelines that sample them, and their grids."""
