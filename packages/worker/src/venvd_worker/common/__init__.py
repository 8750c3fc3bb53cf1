"""Code that several processes of a worker host share, also with the local engine."""
