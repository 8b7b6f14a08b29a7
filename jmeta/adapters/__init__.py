"""One page an adaptation algorithm."""
