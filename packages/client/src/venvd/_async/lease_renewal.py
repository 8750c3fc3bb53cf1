"""Renews the leases of handles by using each of them once."""

from __future__ import annotations

from venvd._handle_table import HandleTable, batch_by_session
from venvd._transports.base import AsyncRun, Call, Kind
from venvd.errors import HandleNotFound, VenvdError

_TIMEOUT = 60.0


async def renew_leases(table: HandleTable, run_call: AsyncRun) -> None:
    """Use every handle of living proxies once. Remove handles that no longer exist from the table."""
    pending = batch_by_session(table.list_live())
    while pending:
        session, handles = pending.pop()
        payload = {"expression": "None", "locals": {"held": [{"$handle": handle} for handle in handles]}}
        try:
            await run_call(Call(Kind("eval", lambda _: None, session, repeatable=True), payload, _TIMEOUT))
        except HandleNotFound:
            if len(handles) == 1:
                table.remove((session, handles[0]))
            else:
                middle = len(handles) // 2
                pending += [(session, handles[:middle]), (session, handles[middle:])]
        except VenvdError:
            continue  # the session or backend has ended with its handles, or is busy, and then leases do not run
