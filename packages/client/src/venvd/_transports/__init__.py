"""Transports: each carries calls to a backend over one scheme, and brings the replies back."""
