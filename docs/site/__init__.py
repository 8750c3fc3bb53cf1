"""The documentation site: its configuration, and the pages that are made from the code."""
