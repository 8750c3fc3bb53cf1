"""What measures: each client is a process of its own, the same for a floor and for what is compared with it."""
