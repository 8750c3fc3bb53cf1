"""What runs inside a venv: warden, session, handles; standard library only."""
