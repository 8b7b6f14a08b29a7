"""Figures of a run, the papers' published numbers, and tables that set the two side by side."""
