"""Figures of a run, the papers' published numbers, and tables that compare the two."""
