"""Figures of venvd, each beside a floor: run `make bench`, or `python -m benchmarks --help`."""
