"""Searches and comparisons: one experiment per file."""
