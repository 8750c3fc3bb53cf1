"""Routing of gRPC calls. Messages pass as bytes, except those that name a session."""
