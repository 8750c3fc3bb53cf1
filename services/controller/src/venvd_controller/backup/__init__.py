"""Backups of a controller's state: identity, secret, tokens and every table, in one file."""
