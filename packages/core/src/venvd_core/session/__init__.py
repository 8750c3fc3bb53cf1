"""One session of a backend; `session.py` is the top, and every other module is called by those above it.

`session` (the queue of calls) → `direct` (clients whose connections the session holds) → `lifecycle` (one process after
the other) → `process` (one process) → `stream` (its lines). What happens below comes up through `lifecycle.Events`.
"""
