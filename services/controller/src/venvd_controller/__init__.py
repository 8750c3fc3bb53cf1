"""The controller: turns what is wanted into running backends, and keeps them running."""

__version__ = "0.1.0"
