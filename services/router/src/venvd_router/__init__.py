"""The router: it passes each request on to the replica of its session, for clients that do not follow `moved`."""
