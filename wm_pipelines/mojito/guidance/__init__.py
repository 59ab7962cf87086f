"""Directional motion control: attention is measured against boxes, and the latent moved until they agree."""
