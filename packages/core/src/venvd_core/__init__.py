"""The server side of sessions: channel, pool, limits, metrics, health."""
