"""The HTTP server of a backend: the operations as routes, and nothing that knows how sessions work."""
