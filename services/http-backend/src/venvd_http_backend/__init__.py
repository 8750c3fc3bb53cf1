"""The HTTP server of a backend."""
