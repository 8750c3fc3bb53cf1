"""Other systems that run Python remotely, started as their documentation says."""
