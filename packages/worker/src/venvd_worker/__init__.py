"""The programs that run inside a venv: warden, zygote, sessions, file processes; standard library only."""
