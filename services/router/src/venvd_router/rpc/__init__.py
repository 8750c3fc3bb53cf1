"""Routing of gRPC calls: messages pass as bytes, apart from those that name a session."""
