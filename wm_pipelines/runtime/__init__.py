"""What everything stands on: files, counter-based randomness, devices, offloading, attention processors."""
