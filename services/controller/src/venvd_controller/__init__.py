"""REST API, database and reconcile loop."""
