"""Inner loops: how one task is adapted to."""
