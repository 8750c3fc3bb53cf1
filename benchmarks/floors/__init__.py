"""Floors: small real programs that do the least of their kind. Each prints its address when it is ready."""
