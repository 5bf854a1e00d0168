"""Comparing denoisers with each other and with classical filters."""
