"""`FollowOperation`: the progress of an operation of the controller."""

from __future__ import annotations

from typing import Any

import grpc
import msgspec
from google.protobuf.descriptor import ServiceDescriptor

from venvd_http.auth import tie_to
from venvd_http.environments import Environments
from venvd_proto.v1.venv_service_pb2 import FollowOperationRequest, FollowOperationResponse
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import messages, status
from venvd_rpc_backend.context import PeerGuard
from venvd_rpc_backend.status import refuse

Context = Any  # grpc.aio.ServicerContext, which has no types
_encode = msgspec.json.Encoder().encode


class Operations:
    """Passes the events of operations on, with the caller's token."""

    def __init__(self, environments: Environments, guard: PeerGuard) -> None:
        self._environments = environments
        self._guard = guard

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handler, if the service has the method."""
        if "FollowOperation" not in service.methods_by_name:
            return {}
        handler: Any = grpc.unary_stream_rpc_method_handler(
            self._follow, FollowOperationRequest.FromString, FollowOperationResponse.SerializeToString
        )
        return {"FollowOperation": handler}

    async def _follow(self, request: FollowOperationRequest, context: Context) -> None:
        try:
            fields = contexts.read_metadata(context.invocation_metadata())
            contexts.authorise(self._guard, fields, context)
            with tie_to(fields.key):
                async with self._environments.follow(request.id, fields.token) as events:
                    async for kind, data in events:
                        event = _make_event(kind, data)
                        if event.WhichOneof("event") is not None:
                            await context.write(event)
                        if kind == "done":
                            return
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)


def _make_event(kind: str, data: Any) -> FollowOperationResponse:
    """Make the message of an event; it is empty for a kind that the proto does not have."""
    event = FollowOperationResponse()
    if kind == "done":
        event.done.SetInParent()
        messages.fill(event.done, _encode(data))
    elif kind in {"phase", "log", "progress"}:
        setattr(event, kind, status.replace_surrogates(str(data)))
    return event
