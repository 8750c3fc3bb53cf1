"""The asyncio flavour of the client, written by hand. `scripts/unasync` generates `venvd._sync` from it."""
