"""Heads: what is fitted to the features of one task, one page each."""
