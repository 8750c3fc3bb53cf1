"""The way out of a container that has no network of its own.

A broker outside of the container listens on a Unix socket as an HTTP proxy. It checks the name and the address of each
destination, and makes the connections. A forwarder inside passes connections from loopback to that socket
(`venvd_worker.forwarder`). Builds and backends use the same broker with different rules.

The package runs in the interpreter of any base image: standard library only, CPython 3.9 and newer.
"""
