"""Manifests of pods that have a pipe backend beside their client. The controller does not store them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from venvd_contract.errors import InvalidRequest, Unimplemented
from venvd_contract.resources import BackendSpec, PodManifest
from venvd_controller import launch_plan
from venvd_controller.backends import Backends
from venvd_controller.database.tables import LaunchRow
from venvd_controller.home import Home
from venvd_controller.launch_rows import make_row
from venvd_controller.secret_store import SecretStore
from venvd_controller.settings import Settings
from venvd_controller.specs import check_backend, choose_name
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine, Launch
from venvd_http.auth import sha256

URL = "unix:///run/venvd/socket/pipe.sock"
_ONLY_STARTED = ("socketDir", "pipeName", "manages", "update", "ttl", "replicas", "labels")
"""Fields that only backends have that the controller starts, watches and ends."""
_DIGESTS = ("VENVD_TOKEN_SHA256", "VENVD_METRICS_TOKEN_SHA256")
"""Settings that the server of a pod does not get. Its token is in its Secret, and its metrics have no token."""
_HEAD = """\
# A pipe backend of the venv "{venv}" as sidecars of its client. docs/kubernetes.md says more.
# Give the container "client" an image of yours, or copy the rest of "spec" into a pod of yours, with env and
# volumeMounts of "client" for your container. venvd does not watch the pod.
"""


class PodManifests:
    """Makes manifests. Equal requests of one home get equal manifests."""

    def __init__(
        self, engine: Engine, settings: Settings, home: Home, backends: Backends, venvs: Venvs, secrets: SecretStore
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._home = home
        self._backends = backends
        self._venvs = venvs
        self._secrets = secrets

    def make(self, spec: BackendSpec, image: str | None, token_version: int) -> PodManifest:
        """Make the manifest of a Secret and a pod.

        Args:
            spec: the specification of the backend.
            image: the image of the client; None for a client that sleeps.
            token_version: each number gives a different token.

        Raises:
            InvalidRequest, Forbidden: a field is wrong.
            NotFound: there is no such venv.
            Conflict: the venv is not ready.
            Unimplemented: the engine has no pods, or the pod would lack something that the request asks for.
        """
        spec = check_backend(spec, self._backends.host_paths)
        row = make_row(spec.name or choose_name(f"{spec.venv}-pipe", set()), spec, declared=False)
        row.nonce = f"pod/{spec.venv}/{row.name}/{token_version}"
        token = self._backends.tokens.derive(row)
        launch = self._plan(row, spec, token)
        objects = self._engine.make_manifest(launch, token, image)
        return PodManifest(row.name, spec.venv, URL, _HEAD.format(venv=spec.venv) + _write_yaml(objects))

    def _plan(self, row: LaunchRow, spec: BackendSpec, token: str | None) -> Launch:
        """Plan the launch of a backend whose row is not in the database."""
        venv = self._venvs.get(spec.venv).spec
        self._check(spec)
        env = launch_plan.create_server_env(row, venv, self._backends, self._settings, self._engine.name)
        env = {name: value for name, value in env.items() if name not in _DIGESTS}
        if token is None:
            env.setdefault("VENVD_SOCKET_UIDS", "any")  # only the client has the directory of the socket
        return launch_plan.plan_launch(
            row,
            venv,
            self._venvs.get_built_image(spec.venv),
            env,
            self._settings,
            self._home.id,
            (),
            _render_keys(row.name, token),
            Launch.secrets,
            False,
            None,
            self._choose_user_id(row.name),
        )

    def _check(self, spec: BackendSpec) -> None:
        """Check that a pod can have all requested fields.

        Raises:
            InvalidRequest: pods do not have a field; the message names it.
            Unimplemented: the venv has secrets.
        """
        usual = BackendSpec(spec.type)
        for name in _ONLY_STARTED:
            if getattr(spec, name) != getattr(usual, name):
                raise InvalidRequest(f"{name}: only backends that the controller starts can have it, not a printed pod")
        secrets = self._secrets.list_all("venv", spec.venv)
        if secrets:
            names = ", ".join(each.name for each in secrets)
            raise Unimplemented(
                f'the venv "{spec.venv}" has secrets ({names}), which no manifest may contain: use a venv '
                "without them, and let the client give its sessions what they need (env of session.create)"
            )

    def _choose_user_id(self, name: str) -> int | None:
        """Choose the user of the worker host by the name, from the half of the home's IDs that backends use last."""
        available = self._engine.claim_user_ids()
        later = available[len(available) // 2 :]
        return later[zlib.crc32(name.encode()) % len(later)] if later else None


def _render_keys(name: str, token: str | None) -> bytes:
    """Return the file with the server's token. The server accepts a new token without a restart."""
    own = [] if token is None else [{"name": f"backend:{name}", "sha256": sha256(token), "expiresAt": None}]
    return json.dumps({"keys": [], "tokens": own}).encode()


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and each part in full, so that a reader can copy it."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _write_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    documents = [dict(each) for each in objects]
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=True))
