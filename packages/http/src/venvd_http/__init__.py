"""The HTTP edge of every service."""
