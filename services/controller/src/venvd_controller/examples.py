"""An example of each model of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BEGAN, _ENDED = "2026-01-31T12:00:00Z", "2026-01-31T12:00:40Z"
_DIGEST = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
_RUNTIME = {
    "version": "3.13",
    "state": "ready",
    "default": True,
    "createdAt": _BEGAN,
    "resolvedVersion": "3.13.5",
    "base": "python@sha256:4f1c9a2b",
}
_VENV_SPEC = {"python": "3.13", "requirements": ["numpy", "pandas"], "preload": ["pandas"]}
_VENV = {
    "name": "science",
    "state": "ready",
    "spec": _VENV_SPEC,
    "createdAt": _BEGAN,
    "updatedAt": _ENDED,
    "python": "3.13.5",
    "key": "b1946ac92492d234",
    "image": "venvd/venv:b1946ac92492d234",
}
_BACKEND_SPEC = {"type": "http", "venv": "science", "name": "science-http", "limits": {"memoryBytes": 2147483648}}
_BACKEND = {
    "name": "science-http",
    "type": "http",
    "venv": "science",
    "state": "running",
    "spec": _BACKEND_SPEC,
    "engine": "docker",
    "createdAt": _BEGAN,
    "url": "http://127.0.0.1:5678",
    "python": "3.13.5",
    "startedAt": _ENDED,
    "restarts": 0,
}
_OPERATION = {
    "id": "op-4f1c9a",
    "kind": "venv.build",
    "target": "science",
    "state": "running",
    "createdAt": _BEGAN,
    "startedAt": _BEGAN,
    "phases": [{"name": "lock", "startedAt": _BEGAN}],
}
_START = {**_OPERATION, "kind": "backend.start", "target": "science-http"}
_PROVIDER_SPEC = {"requirements": ["openai"], "python": "3.13"}
_LEFTOVER = {"kind": "venv", "name": "sha256:4f1c9a2b", "current": False, "sizeBytes": 73400320}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "Alive": {"status": "ok"},
    "AuditEntry": {
        "id": 42,
        "time": _BEGAN,
        "key": "ci",
        "peer": "192.0.2.7",
        "method": "PUT",
        "target": "/v1/venvs/science",
        "status": 202,
        "code": None,
        "count": 1,
        "fields": {"requirements": ["numpy", "pandas"]},
    },
    "Backend": _BACKEND,
    "BackendSpec": _BACKEND_SPEC,
    "BackendStart": {"backend": {**_BACKEND, "state": "pending"}, "operation": _START},
    "CallerInfo": {"name": "ci", "scope": ["venv:science"]},
    "ConfigReport": {
        "settings": [{"name": "VENVD_ENGINE", "value": "docker", "source": "environment", "variable": "VENVD_ENGINE"}],
        "unsafe": [],
        "missing": [],
        "gaps": [],
    },
    "ControllerStatus": {
        "version": "0.1.0",
        "engine": "docker",
        "engineReason": "Docker Engine 29.0.0 answers",
        "home": "/var/lib/venvd",
        "runtimes": 1,
        "venvs": 2,
        "backends": {"running": 3},
        "operations": {"succeeded": 6},
    },
    "Default": {"version": "3.13"},
    "Key": {"name": "ci", "scope": ["venv:science"], "createdAt": _BEGAN, "expiresAt": "2026-03-02T12:00:00Z"},
    "Leftover": _LEFTOVER,
    "Lock": {"lock": f"six==1.17.0 \\\n    --hash=sha256:{_DIGEST}\n"},
    "LogLine": {"time": _BEGAN, "source": "worker", "stream": "stdout", "text": "ready"},
    "NewKey": {"name": "ci", "scope": ["venv:science", "use:science-http"], "expiresAt": "2026-03-02T12:00:00Z"},
    "OperationInfo": _OPERATION,
    "Package": {"name": "numpy", "version": "2.4.0"},
    "PodManifest": {
        "name": "science-pipe",
        "venv": "science",
        "url": "unix:///run/venvd/socket/pipe.sock",
        "manifest": "apiVersion: v1\nkind: Secret\n…",
    },
    "Provider": {"name": "OpenAI", "spec": _PROVIDER_SPEC, "createdAt": _BEGAN, "updatedAt": _BEGAN},
    "ProviderSpec": _PROVIDER_SPEC,
    "Replica": {"number": 0, "state": "running", "url": "http://127.0.0.1:5678", "sessions": 4, "startedAt": _ENDED},
    "RotationSpec": {"overlap": 600},
    "Runtime": _RUNTIME,
    "RuntimeChange": {"runtime": _RUNTIME, "operation": None},
    "AdminTokenRotation": {"token": "vc_Jr4cGqgmzEl9sCqTnUvfRc5yGZfu3XmU3pAqP0sBh1w", "previousEndsAt": _ENDED},
    "ScaleSpec": {"replicas": 3},
    "Secret": {"name": "API_KEY", "setAt": _BEGAN, "env": "API_KEY"},
    "SecretHeader": {"name": "Authorization", "hosts": ["api.example.com"], "format": "Bearer {}"},
    "SecretSpec": {"value": "s3cr3t", "env": "API_KEY"},
    "TargetGroup": {"targets": ["127.0.0.1:8600"], "labels": {"backend": "science-http"}},
    "Venv": _VENV,
    "TokenRotation": {
        "backend": "science-http",
        "token": "vd_5f1d7a84db00d2fce00b31a7fc73224f41a2ad7c5e8a0b91",
        "previousEndsAt": _ENDED,
    },
    "VenvChange": {"venv": {**_VENV, "state": "building"}, "operation": _OPERATION},
    "VenvRun": {"code": "print('hello')", "timeout": 60},
    "VenvSpec": _VENV_SPEC,
}
