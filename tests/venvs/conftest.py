"""A controller on each engine, and the three servers as ways to it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from harness.controller import Controller, SharedControllers
from harness.engines import ENGINES
from harness.rpc import told

from venvd_contract.errors import from_fields
from venvd_contract.venvs import VENV_COMMANDS
from venvd_proto.v1 import venv_service_pb2, venv_service_pb2_grpc

TRANSPORTS = ("http", "pipe", "rpc")
BY_NAME = {command.name: command for command in VENV_COMMANDS}
PATIENCE = 120

Ask = Callable[[dict[str, Any], str, str | None, dict[str, Any]], Any]


@pytest.fixture(scope="package", params=ENGINES)
def controller(request: pytest.FixtureRequest, controllers: SharedControllers) -> Controller:
    return controllers.controller(request.param)


def ask_http(backend: dict[str, Any], command: str, token: str | None, payload: dict[str, Any]) -> Any:
    method, path = BY_NAME[command].http
    body = json.dumps(payload) if method == "POST" else None
    connection = http.client.HTTPConnection(urlsplit(backend["url"]).netloc, timeout=PATIENCE)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path.format(**payload), body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status >= 400:
            raise from_fields(answer)
        return answer
    finally:
        connection.close()


def ask_pipe(backend: dict[str, Any], command: str, token: str | None, payload: dict[str, Any]) -> Any:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(urlsplit(backend["url"]).path)
        client.sendall(json.dumps({"command": command, "token": token, "payload": payload}).encode() + b"\n")
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    if "error" in answer:
        raise from_fields(answer)
    return answer["result"]


def open_venvs(backend: dict[str, Any]) -> tuple[grpc.Channel, Any]:
    channel = grpc.insecure_channel(urlsplit(backend["url"]).netloc)
    return channel, venv_service_pb2_grpc.VenvServiceStub(channel)


def ask_rpc(backend: dict[str, Any], command: str, token: str | None, payload: dict[str, Any]) -> Any:
    name = BY_NAME[command].rpc.split("/")[1]
    channel, venvs = open_venvs(backend)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    request = ParseDict(payload, getattr(venv_service_pb2, f"{name}Request")())
    try:
        answer = MessageToDict(getattr(venvs, name)(request, metadata=metadata, timeout=PATIENCE))
    except grpc.RpcError as error:
        raise told(error) from None
    finally:
        channel.close()
    if command == "venv.status":
        return answer["environment"]
    if command == "venv.list":
        return {"items": answer.get("environments", []), "next": answer.get("next")}
    return {**answer, "venv": answer.pop("environment")} if "environment" in answer else answer


ASK: dict[str, Ask] = {"http": ask_http, "pipe": ask_pipe, "rpc": ask_rpc}
