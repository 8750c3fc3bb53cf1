"""The file process: a short-lived fork of the warden that moves one file of a session."""
