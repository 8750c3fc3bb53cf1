"""Replicas of a backend as pods, and the router in front of them, under the policies of the chart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from harness.callers import HttpCaller
from harness.pod_security import list_violations
from harness.release import Release, prepare_release
from harness.waiting import wait_until

from venvd_contract.errors import VenvdError


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with prepare_release("replicas", tmp_path_factory.mktemp("replicas")) as prepared:
        prepared.change("install")
        prepared.venvd("init", "3.13")
        prepared.venvd("venv", "create", "science", "--python", "3.13")
        yield prepared
        prepared.helm("uninstall", "venvd", "--wait")


def list_pods(release: Release) -> dict[str, dict[str, Any]]:
    """Return the pods of the controller's backends by the names of their launches."""
    return {
        pod["metadata"]["labels"]["dev.venvd.name"]: pod
        for pod in release.namespace.get("pods")
        if pod["metadata"]["labels"].get("dev.venvd.role") == "backend" and "deletionTimestamp" not in pod["metadata"]
    }


def create_sessions(url: str, token: str, count: int) -> list[str]:
    with closing(HttpCaller(url, token)) as call:
        return [call("session.create", {})["id"] for _ in range(count)]


def test_a_service_leads_through_the_router_to_all_replicas(release: Release) -> None:
    """Callers of one address have sessions on each pod; added replicas and a new router keep those that there are."""
    words = ["start", "http", "--venv", "science", "--name", "many", "--replicas", "2", "--json"]
    started = json.loads(release.venvd(*words))
    token = started["token"]
    assert started["url"] == f"http://many.{release.namespace.name}.svc:5678"
    pods = list_pods(release)
    assert sorted(pods) == ["many", "many--1", "many--router"]
    assert list_violations(pods["many--router"]["spec"]) == []
    assert [each["name"] for each in pods["many--router"]["spec"]["containers"]] == ["server"]
    with release.forward("many", 5678) as url:
        sessions = create_sessions(url, token, 4)
        assert Counter(session[:2] for session in sessions) == {"0-": 2, "1-": 2}
        with closing(HttpCaller(url, token)) as call:
            for number, session in enumerate(sessions):
                call("exec", {"code": f"x = {number}"}, session=session)
    assert not release.reaches("many")  # nor does any other pod of the namespace

    release.venvd("scale", "many", "3")
    before = pods["many--router"]["metadata"]["uid"]
    release.namespace.kubectl("delete", "pod", pods["many--router"]["metadata"]["name"], "--now")

    def find_new_router() -> bool:
        router = list_pods(release).get("many--router")
        return router is not None and router["metadata"]["uid"] != before

    wait_until(find_new_router, "the controller makes no new router")

    def find_sessions() -> list[Any]:
        try:
            with release.forward("many", 5678) as url, closing(HttpCaller(url, token)) as call:
                return [call("eval", {"expression": "x"}, session=session)["value"] for session in sessions]
        except (OSError, VenvdError):
            return []

    assert wait_until(find_sessions, "the new router does not answer") == [0, 1, 2, 3]
    with release.forward("many", 5678) as url:
        [third] = create_sessions(url, token, 1)
    assert third.startswith("2-")

    release.venvd("stop", "many")
    wait_until(lambda: not list_pods(release), lambda: f"left: {sorted(list_pods(release))}")


def test_an_update_leads_a_service_to_the_next_pod(release: Release) -> None:
    """Without a router, the Service leads to the new pod once that is ready, and calls from inside the cluster fail
    at no time; the former pod ends after the session that it has, and nothing of it is left.
    """
    words = ["start", "http", "--venv", "science", "--name", "rolling", "--update", "rolling", "--json"]
    started = json.loads(release.venvd(*words))
    [before] = [each for name, each in list_pods(release).items() if name == "rolling"]
    with release.forward("rolling", 5678) as url, closing(HttpCaller(url, started["token"])) as call:
        session = call("session.create", {})["id"]
        release.venvd("venv", "add", "science", "six==1.17.0")

        def find_pods() -> list[dict[str, Any]]:
            pods = release.namespace.get("pods")
            return [each for each in pods if each["metadata"]["labels"].get("dev.venvd.name") == "rolling"]

        def leads_elsewhere() -> bool:
            [service] = [each for each in release.namespace.get("services") if each["metadata"]["name"] == "rolling"]
            launch = service["spec"]["selector"]["dev.venvd.launch"]
            return bool(launch != before["metadata"]["labels"]["dev.venvd.launch"])

        wait_until(leads_elsewhere, "the Service leads to the old pod", 300)
        # this forwarded connection leads to the former pod, whatever the Service says
        assert call("eval", {"expression": "1 + 1"}, session=session) == {"value": 2}
        assert len(find_pods()) == 2
        with release.forward("rolling", 5678) as new, closing(HttpCaller(new, started["token"])) as ask:
            assert ask("eval", {"expression": "__import__('six').__version__"}) == {"value": "1.17.0"}
        call("session.delete", {"id": session})
    wait_until(lambda: len(find_pods()) == 1, "the former pod does not end", 120)
    backend = json.loads(release.venvd("status", "rolling", "--json"))
    assert (backend["state"], backend["outdated"], backend["url"]) == ("running", False, started["url"])
    release.venvd("stop", "rolling")
    wait_until(lambda: not find_pods(), "pods are left")
    assert not [each for each in release.namespace.get("secrets") if each["metadata"]["name"].startswith("rolling")]


def test_a_router_that_is_replaced_during_an_update(release: Release) -> None:
    """The update goes on, and the new router leads to the new pods."""
    words = ["start", "http", "--venv", "science", "--name", "turning", "--replicas", "2", "--update", "rolling"]
    token = json.loads(release.venvd(*words, "--json"))["token"]

    def find_pods() -> set[str]:
        """Find the pods of the backend, also those that drain."""
        pods = release.namespace.get("pods")
        return {pod["metadata"]["uid"] for pod in pods if is_of_turning(pod["metadata"]["labels"])}

    def is_of_turning(labels: dict[str, str]) -> bool:
        return labels.get("dev.venvd.name", "").startswith("turning")

    before = find_pods()
    release.venvd("venv", "add", "science", "idna==3.10")
    wait_until(lambda: len(find_pods()) > len(before), "there is no update", 300)
    router = list_pods(release)["turning--router"]["metadata"]["name"]
    release.namespace.kubectl("delete", "pod", router, "--now")

    def has_ended() -> bool:
        backend = json.loads(release.venvd("status", "turning", "--json"))
        return (backend["state"], backend["outdated"], backend["updating"]) == ("running", False, False)

    wait_until(has_ended, "the update does not end", 300)
    wait_until(lambda: not find_pods() & before, "the former pods do not end", 300)
    assert sorted(list_pods(release)) == ["turning", "turning--1", "turning--router"]
    with release.forward("turning", 5678) as url:
        sessions = create_sessions(url, token, 4)
        assert Counter(session[:2] for session in sessions) == {"0-": 2, "1-": 2}
        with closing(HttpCaller(url, token)) as call:
            versions = [
                call("eval", {"expression": "__import__('idna').__version__"}, session=each) for each in sessions
            ]
    assert versions == [{"value": "3.10"}] * 4
    release.venvd("stop", "turning")
    wait_until(lambda: not list_pods(release), lambda: f"left: {sorted(list_pods(release))}")
