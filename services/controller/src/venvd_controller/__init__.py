"""The controller: REST API, database, and the loop that keeps the desired backends running."""

__version__ = "0.1.0"
