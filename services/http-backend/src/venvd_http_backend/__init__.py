"""The HTTP server of a backend: the commands as routes, and nothing that knows how sessions work."""
