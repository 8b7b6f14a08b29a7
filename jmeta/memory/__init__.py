"""Learners that adapt by their state over a stream."""
