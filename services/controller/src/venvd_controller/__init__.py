"""The controller: the REST API, the database, and the loop that keeps the desired backends running."""

__version__ = "0.1.0"
