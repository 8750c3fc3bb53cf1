"""How a client answers a registry's challenge: with a name and a password, or with a token for the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import docker.auth
import requests
import requests.auth
from requests.utils import parse_dict_header

TOKEN_SECONDS = 30.0


class Login(requests.auth.AuthBase):
    """The authorization of requests to one registry. Requests carry the answer to its last challenge.

    Args:
        credentials: the content of a `.dockerconfigjson`.
        host: the registry, as in the names of its images.
    """

    def __init__(self, credentials: Mapping[str, Any], host: str) -> None:
        entries = docker.auth.AuthConfig.parse_auth(dict(credentials.get("auths") or {}))
        entry = docker.auth.AuthConfig({"auths": entries}).resolve_authconfig(host) or {}
        user = entry.get("username")
        self._basic = requests.auth.HTTPBasicAuth(user, entry.get("password", "")) if user else None
        self._token = ""
        self._uses_basic = False

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        elif self._uses_basic and self._basic is not None:
            self._basic(request)
        return request

    def answer(self, response: requests.Response, session: requests.Session) -> bool:
        """Answer the challenge of a refused request. Return False if there is no answer to it."""
        scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        if scheme.lower() == "basic":
            repeated, self._uses_basic = self._uses_basic, self._basic is not None
            return self._uses_basic and not repeated
        challenge = parse_dict_header(rest) if scheme.lower() == "bearer" else {}  # type: ignore[no-untyped-call]
        if not challenge.get("realm"):
            return False
        query = [("scope", scope) for scope in challenge.get("scope", "").split()]
        query += [("service", challenge["service"])] if "service" in challenge else []
        answer = session.get(
            challenge["realm"], params=query, auth=self._basic or _without_login, timeout=TOKEN_SECONDS
        )
        given = answer.json() if answer.ok else {}
        self._token = str(given.get("token") or given.get("access_token") or "")
        return bool(self._token)


def _without_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
