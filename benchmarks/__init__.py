"""Figures of venvd, each beside its floor: `make bench`, or `python -m benchmarks --help`."""
