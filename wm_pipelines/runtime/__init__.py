"""What everything stands on: files and their readers, counter-based randomness, offloading, attention processors."""
