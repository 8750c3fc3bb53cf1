"""Python services from a version and a requirements list: SDK and CLI."""
