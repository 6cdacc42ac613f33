"""Caches that hold keys and values in few bits, and read like any other."""
