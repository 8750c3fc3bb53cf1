"""Tests on a real cluster: `make test-kubernetes` names it, and without that they are not collected."""

from __future__ import annotations

from harness.kubernetes import VALUES

if not VALUES:
    collect_ignore_glob = ["test_*.py"]
