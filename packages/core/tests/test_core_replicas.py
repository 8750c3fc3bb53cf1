"""Replicas: which of them a session lives on, and what the others answer."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, Moved, Unavailable
from venvd_core.replicas import Replicas
from venvd_core.settings import BackendSettings

URLS = ["http://127.0.0.1:7000", "http://127.0.0.1:7001", "http://127.0.0.1:7002"]
NAMES = [f"name-{number}" for number in range(60)]


def make(number: int, count: int = 3, urls: Any = URLS) -> Replicas:
    replicas = Replicas(BackendSettings(no_token=True, replica=number, replicas=count))
    replicas.addresses = urls
    return replicas


def find_home(session: str, asked: int) -> int:
    """Return the replica that takes a session, as the replica `asked` says."""
    try:
        make(asked).check_home(session)
    except Moved as moved:
        return URLS.index(moved.url)
    return asked


def test_all_replicas_agree_where_a_name_lives() -> None:
    """Each name has one replica, whichever is asked, and every replica has some names."""
    homes = {name: {find_home(name, asked) for asked in range(3)} for name in NAMES}
    assert all(len(home) == 1 for home in homes.values())
    assert set().union(*homes.values()) == {0, 1, 2}


def test_ids_begin_with_the_number_of_their_replica() -> None:
    """A session without a name gets its ID from the replica that makes it; with one, only at home."""
    assert make(2).make_id(None).startswith("2-")
    home = find_home("report", 0)
    assert make(home).make_id("report") == f"{home}-report"
    with pytest.raises(Moved) as moved:
        make((home + 1) % 3).make_id("report")
    assert moved.value.url == URLS[home]


def test_a_session_is_found_by_name_and_by_id() -> None:
    """Both lead to the same ID on its replica."""
    home = find_home("report", 0)
    assert {make(home).resolve(each) for each in ("report", f"{home}-report")} == {f"{home}-report"}


def test_the_default_session_lives_on_replica_0() -> None:
    """Each other replica has a first session of its own."""
    assert [find_home("default", asked) for asked in range(3)] == [0, 0, 0]
    assert [make(number).first for number in range(3)] == ["default", "1-default", "2-default"]


def test_one_replica_keeps_names_as_ids() -> None:
    """Without further replicas, the ID of a named session is its name, whatever it looks like."""
    alone = make(0, 1, [])
    assert alone.make_id("7-seven") == alone.resolve("7-seven") == "7-seven"
    assert "-" not in alone.make_call_id()


def test_a_name_that_looks_like_an_id_is_refused() -> None:
    """It could be mistaken for a session of another replica."""
    with pytest.raises(InvalidRequest, match='"1-report" looks like the ID of a session'):
        make(1).make_id("1-report")


def test_an_id_with_a_number_that_no_replica_has_is_not_moved() -> None:
    """The replica that is asked says that there is no such session."""
    assert make(1).resolve("9-report") == "9-report"


def test_background_calls_are_found_from_every_replica() -> None:
    """The ID of a call says which replica knows of it."""
    call = make(2).make_call_id()
    make(2).check_call(call)
    with pytest.raises(Moved, match="is one of replica 2, at") as moved:
        make(0).check_call(call)
    assert moved.value.url == URLS[2]


def test_an_address_that_is_not_known_yet_is_looked_for() -> None:
    """The replica reads the addresses again before it says that one is absent."""
    replicas = make(0, 3, [URLS[0], None, None])
    with pytest.raises(Unavailable, match="replica 1, which has no address yet; try again"):
        replicas.check_home("1-report")

    def refresh() -> None:
        replicas.addresses = URLS

    replicas.refresh = refresh
    with pytest.raises(Moved, match=URLS[1]):
        replicas.check_home("1-report")
