"""The session: the process that runs the user's code."""
