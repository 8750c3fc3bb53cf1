"""What the suites share: running backends, and clients without the SDK."""
