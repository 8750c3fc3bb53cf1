"""The paths of the older HTTP server, which are those of the HTTP client without `/api`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from compat.clients import Client, OldHttpClient
from compat.connections import connect
from compat.dotnet.http_client import HttpClient, Response
from compat.dotnet.types import INT32
from harness.stack import Running

pytestmark = pytest.mark.about("transport")


@pytest.fixture
def old(backends: Callable[[str], Running], monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The HTTP client with the paths of the older server."""
    post = HttpClient.post_chunked

    def post_without_prefix(self: HttpClient, path: str, body: bytes) -> Response:
        return post(self, path.removeprefix("/api").replace("-", "_"), body)

    monkeypatch.setattr(HttpClient, "post_chunked", post_without_prefix)
    client = connect("http", backends("http"))
    assert isinstance(client, OldHttpClient)
    yield client
    client.close()


def test_every_command_has_its_old_path(old: Client) -> None:
    """Each command answers at its path without `/api`."""
    fraction = old.create_object("fractions", "Fraction", [6, 8])
    assert fraction is not None, old.log
    assert old.get_attribute(INT32, fraction, "denominator") == 4
    assert old.call_method(INT32, fraction, "__round__") == 1
    numbers = old.create_object_handle_from_result([[1, 2]])
    assert old.to_float_array(numbers) == [1.0, 2.0]
    assert old.to_float_array_2d(numbers) == [[1.0, 2.0]]
    namespace = old.create_object("types", "SimpleNamespace")
    assert namespace is not None
    old.set_attribute(namespace, "a", 5)
    assert old.evaluate(INT32, "n.a", {"n": namespace}) == 5
    assert old.is_module_available("json") is True
    old.dispose_handle(namespace)
    assert old.evaluate(INT32, "n.a", {"n": namespace}) == 0
    assert len(old.log) == 1
