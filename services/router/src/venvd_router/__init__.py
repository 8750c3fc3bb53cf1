"""The router: it passes requests on to the replica of their session, for clients that do not follow `moved`."""
