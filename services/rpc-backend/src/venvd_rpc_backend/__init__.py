"""The gRPC server of a backend."""
