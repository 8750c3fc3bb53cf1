"""The warden: the first process of a worker host, which starts, watches, ends and reaps all others."""
