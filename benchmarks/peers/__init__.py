"""Others that run Python remotely, from the package index, as their manuals say to run them."""
