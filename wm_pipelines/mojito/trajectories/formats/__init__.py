"""Trajectories as other tools write them: readers of text and arrays; none opens a file."""
