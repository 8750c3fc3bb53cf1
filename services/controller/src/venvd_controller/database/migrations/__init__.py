"""The migrations: each turns one schema into the next."""
