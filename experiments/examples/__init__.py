"""Algorithms of jmeta on a page each, without flags; start here to write one of your own."""
