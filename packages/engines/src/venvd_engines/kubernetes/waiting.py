"""Why a pod does not run: what its conditions and containers say, and which reasons will not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from venvd_contract.errors import Internal, InvalidRequest, NotFound, Unavailable, VenvdError

FINAL = {
    "InvalidImageName": InvalidRequest,
    "ErrImageNeverPull": NotFound,
    "CreateContainerConfigError": InvalidRequest,
    "CreateContainerError": Internal,
    "RunContainerError": Internal,
}
"""The reasons of a waiting container that time does not mend, with their errors."""
PULLS = {"ErrImagePull", "ImagePullBackOff"}
_ABSENT = ("not found", "NotFound", "manifest unknown", "MANIFEST_UNKNOWN")


def list_statuses(pod: Any) -> Iterator[Any]:
    yield from pod.status.initContainerStatuses or ()
    yield from pod.status.containerStatuses or ()


def explain_waiting(pod: Any) -> str:
    """Explain in one line what a pod waits for; empty if the pod does not say."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"no node takes the pod: {condition.message or condition.reason}"
    for status in list_statuses(pod):
        waiting = status.state.waiting if status.state else None
        if waiting is not None and waiting.reason not in {None, "PodInitializing", "ContainerCreating"}:
            return f"{status.name}: {waiting.reason}: {waiting.message or ''}".rstrip(": ")
    return ""


def find_failure(pod: Any) -> VenvdError | None:
    """Return an error that says why a pod will never run, or None if it still may."""
    if pod.status.phase == "Failed" and not pod.status.containerStatuses:
        return Unavailable(f"the cluster ended the pod: {pod.status.reason}: {pod.status.message}")
    for status in list_statuses(pod):
        state = status.state
        if state is None:
            continue
        if state.waiting is not None and state.waiting.reason in FINAL:
            return FINAL[state.waiting.reason](f"{status.name}: {state.waiting.reason}: {state.waiting.message}")
        if state.waiting is not None and state.waiting.reason in PULLS:
            message = state.waiting.message or ""
            if any(word in message for word in _ABSENT):
                return NotFound(f"the image {status.image} of {status.name} is not in its registry: {message}")
        if state.terminated is not None and state.terminated.exitCode != 0:
            message = state.terminated.message or state.terminated.reason
            return Unavailable(f"{status.name} ended with status {state.terminated.exitCode}: {message}")
    return None
