"""Where backends run: the interface, and the engines behind it."""
