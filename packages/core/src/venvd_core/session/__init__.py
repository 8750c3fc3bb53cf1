"""One session of a backend. Each module calls those after it in this order.

`session` (the queue of calls) → `direct` (clients whose connections the session holds) → `lifecycle` (one process after
the other) → `process` (one process) → `stream` (its lines). Events go the other way, through `lifecycle.Events`.
"""
