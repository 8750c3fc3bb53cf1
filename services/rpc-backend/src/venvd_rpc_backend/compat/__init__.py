"""What clients of an older .NET host use: its gRPC service and its HTTP calls with PascalCase JSON.

The setting `compat` switches it on. The server does nothing for it in a call of `venvd.v1`.
"""
