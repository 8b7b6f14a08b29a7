"""Adaptation in continuous time: the gradient flow of a linear classifier (COMLN)."""
