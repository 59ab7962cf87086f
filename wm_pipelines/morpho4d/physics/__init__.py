"""Whether a clip or a scene in time obeys physics, in terms that are measured one by one (our design)."""
