"""What clients, servers and workers of venvd agree on; standard library only."""
