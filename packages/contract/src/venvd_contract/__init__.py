"""The contract between clients, servers and workers of venvd; standard library only."""
