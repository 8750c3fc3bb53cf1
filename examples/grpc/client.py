"""Run Python over gRPC with stubs generated from the proto files; the same works in every language of gRPC.

Use a separate virtual environment, because the SDK's package is also named `venvd` and would hide the stubs:

    pip install grpcio grpcio-tools grpcio-status
    mkdir stubs
    python -m grpc_tools.protoc -I proto --python_out=stubs --grpc_python_out=stubs proto/venvd/v1/*.proto
    venvd start rpc --json                # prints the URL and the token
    VENVD_TOKEN=… PYTHONPATH=stubs python examples/grpc/client.py 127.0.0.1:50051
"""

from __future__ import annotations

import json
import os
import sys

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from venvd.v1 import python_service_pb2 as messages
from venvd.v1.python_service_pb2_grpc import PythonServiceStub


def describe(error: grpc.RpcError) -> str:
    """The stable code of an error, and the type of the exception that the Python code raised."""
    info = ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(info):
            break
    return f"{info.reason}: {info.metadata['errorType']}"


def main() -> None:
    metadata = [("authorization", f"Bearer {os.environ['VENVD_TOKEN']}")]
    with grpc.insecure_channel(sys.argv[1]) as channel:
        python = PythonServiceStub(channel)
        module = python.ImportModule(messages.ImportModuleRequest(module_name="fractions"), metadata=metadata)
        create = messages.CreateObjectRequest(
            module_handle_id=module.handle_id, class_name="Fraction", args_json=json.dumps([6, 8])
        )
        fraction = python.CreateObject(create, metadata=metadata)
        get = messages.GetAttributeRequest(handle_id=fraction.handle_id, attribute_name="denominator")
        print("denominator", json.loads(python.GetAttribute(get, metadata=metadata).value_json))

        execute = messages.ExecuteRequest(code="for step in range(2): print('step', step)")
        for response in python.Execute(execute, metadata=metadata):
            if response.WhichOneof("event") == "stdout":
                print(response.stdout, end="")

        requests = [
            messages.SessionRequest(id=n, command="eval", payload_json=json.dumps({"expression": f"{n} ** 2"}))
            for n in (3, 4)
        ]
        replies = python.Session(iter(requests), metadata=metadata)
        print("on one stream", sorted((reply.id, reply.result_json) for reply in replies))

        try:
            python.Evaluate(messages.EvaluateRequest(expression="1 / 0"), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            print(error.code().name, describe(error))


if __name__ == "__main__":
    main()
