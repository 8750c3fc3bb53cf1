"""What several processes of a worker host, and the local engine, use."""
