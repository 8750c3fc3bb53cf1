"""Floors: small real programs that do the least there is to compare with; each prints its address when it is up."""
