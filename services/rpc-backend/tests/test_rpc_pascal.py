"""The JSON of old clients."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venvd_contract.commands import BY_NAME
from venvd_contract.errors import Internal, InvalidRequest, TooLarge
from venvd_rpc_backend.compat import pascal


def answered(command: str, result: Any) -> Any:
    return json.loads(pascal.render_response(BY_NAME[command], json.dumps(result).encode()))


def test_request_fields_become_the_contracts() -> None:
    """Fields in PascalCase or camelCase are taken; what stands in values is not touched."""
    body = b'{"HandleId":"h","methodName":"m","Kwargs":{"Deep":{"Er":1}},"Args":[12345678901234567890]}'
    assert pascal.read_request(body) == (
        b'{"handleId":"h","methodName":"m","kwargs":{"Deep":{"Er":1}},"args":[12345678901234567890]}'
    )


def test_no_body_is_no_fields() -> None:
    """An empty body is an empty request."""
    assert pascal.read_request(b" \n") == b"{}"


@pytest.mark.parametrize("body", [b"[]", b"x", b'"a"', b"{", b'{"A":"\xff"}'])
def test_a_body_that_is_no_object(body: bytes) -> None:
    """A body that is no JSON object is refused."""
    with pytest.raises(InvalidRequest):
        pascal.read_request(body)


def test_a_body_nested_without_end() -> None:
    """Brackets without end are too large."""
    with pytest.raises(TooLarge):
        pascal.read_request(b'{"A":' + b"[" * 1_000_000)


def test_response_fields_become_pascal_case() -> None:
    """The contract's fields are renamed, the user's are not."""
    assert answered("eval", {"value": {"a": {"bC": 1}}}) == {"Value": {"a": {"bC": 1}}}
    assert answered("import", {"handleId": "h", "typeName": "t"}) == {"HandleId": "h", "TypeName": "t"}


def test_models_inside_models() -> None:
    """Errors, results and lists inside a response are renamed too."""
    output = {
        "stdout": "",
        "display": [{"text/plain": "x"}],
        "result": {"isHandle": True, "handleId": "h"},
        "error": {"errorType": "E"},
    }
    assert answered("exec", output) == {
        "Stdout": "",
        "Display": [{"text/plain": "x"}],
        "Result": {"IsHandle": True, "HandleId": "h"},
        "Error": {"ErrorType": "E"},
    }
    assert answered("exec", {"result": None, "error": None}) == {"Result": None, "Error": None}
    assert answered("handles", {"handles": [{"handleId": "h"}]}) == {"Handles": [{"HandleId": "h"}]}


def test_bare_arrays_get_a_name() -> None:
    """The commands that answer with a bare array name it as gRPC does."""
    assert answered("tofloatarray", [1.0]) == {"Data": [1.0]}
    assert answered("tofloatarray2d", [[1.0]]) == {"Data": [[1.0]]}


def test_results_are_not_trusted() -> None:
    """A result that is not of its command's form is an internal error."""
    with pytest.raises(Internal):
        answered("import", [1])
