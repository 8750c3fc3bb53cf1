"""The Unix-socket server of a backend."""
