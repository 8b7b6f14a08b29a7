"""Inner update rules."""
