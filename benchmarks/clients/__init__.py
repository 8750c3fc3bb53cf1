"""The clients of the benchmarks. A floor and the server beside it get the same client where that is possible."""
