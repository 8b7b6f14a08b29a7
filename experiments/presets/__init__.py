"""Published settings as data, a file a paper: the runs of its tables and figures, and expected numbers."""
