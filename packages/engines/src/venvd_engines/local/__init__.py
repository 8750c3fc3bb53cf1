"""The engine for machines without Docker: backends are processes, venvs are directories."""
