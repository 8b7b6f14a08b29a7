"""Continual learners, one page each."""
