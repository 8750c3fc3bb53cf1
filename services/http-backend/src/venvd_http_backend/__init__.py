"""The HTTP server of a backend: it maps routes to commands, and does not know how sessions work."""
