"""The server side of sessions; knows no transport."""
