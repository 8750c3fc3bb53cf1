"""Replicas: which of them a session lives on, and what the others answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from venvd_contract.errors import InvalidRequest, Moved, Unavailable
from venvd_contract.internal.replica_table import ReplicaEntry, ReplicaTable, choose_home
from venvd_core.replicas import Replicas

URLS = ["http://127.0.0.1:7000", "http://127.0.0.1:7001", "http://127.0.0.1:7002"]
NAMES = [f"name-{number}" for number in range(60)]


def make_table(
    urls: Sequence[str | None] = URLS, names: int | None = None, draining: int | None = None
) -> ReplicaTable:
    entries = [ReplicaEntry(url, draining=number == draining) for number, url in enumerate(urls)]
    return ReplicaTable(len(urls) if names is None else names, entries)


def make(number: int, table: ReplicaTable | None = None) -> Replicas:
    replicas = Replicas(number)
    replicas.replace_table(table or make_table())
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


def test_names_are_spread_evenly() -> None:
    """Of 3,000 names, each of 8 replicas has between a tenth and a seventh."""
    homes = [choose_home(f"session {number}", 8) for number in range(3000)]
    assert all(300 < homes.count(number) < 430 for number in range(8))


def test_fewer_replicas_move_only_the_names_of_the_last() -> None:
    """All other sessions stay where their clients know them."""
    for name in NAMES:
        assert choose_home(name, 2) == choose_home(name, 3) or choose_home(name, 3) == 2


def test_a_new_replica_moves_no_name() -> None:
    """It takes sessions without a name alone, since one with a name may run elsewhere."""
    homes = [make_table([*URLS, "http://127.0.0.1:7003"], names=3).find_home(name) for name in NAMES]
    assert homes == [make_table().find_home(name) for name in NAMES]


def test_ids_begin_with_the_number_of_their_replica() -> None:
    """A session without a name gets its ID from the replica that makes it; with one, only at home."""
    assert make(2).make_id(None).startswith("2-")
    home = find_home("report", 0)
    assert make(home).make_id("report") == f"{home}-report"
    with pytest.raises(Moved) as moved:
        make((home + 1) % 3).make_id("report")
    assert moved.value.url == URLS[home]


def test_a_session_is_found_by_name_and_by_id() -> None:
    """A name may also be the ID of a session from the time when there was one replica."""
    home = find_home("report", 0)
    assert make(home).list_ids("report") == ("report", f"{home}-report")
    assert make(home).list_ids(f"{home}-report") == (f"{home}-report",)


def test_the_default_session_lives_on_replica_0() -> None:
    """Each other replica has a first session of its own."""
    assert [find_home("default", asked) for asked in range(3)] == [0, 0, 0]
    assert [make(number).first for number in range(3)] == ["default", "1-default", "2-default"]


def test_one_replica_keeps_names_as_ids() -> None:
    """Without further replicas, the ID of a named session is its name, whatever it looks like."""
    alone = Replicas(0)
    assert alone.make_id("7-seven") == "7-seven"
    assert alone.list_ids("7-seven") == ("7-seven",)
    assert "-" not in alone.make_call_id()


def test_ids_stay_numbered_when_one_replica_is_left() -> None:
    """Sessions from the time of several replicas are found by name."""
    replicas = make(0, make_table(URLS[:1]))
    assert "-" not in replicas.make_call_id()
    replicas.replace_table(make_table(URLS[:2], names=1))
    replicas.replace_table(make_table(URLS[:1]))
    assert replicas.make_id("report") == "0-report"
    assert replicas.list_ids("report") == ("report", "0-report")


def test_a_name_that_looks_like_an_id_is_refused() -> None:
    """It could be mistaken for a session of another replica."""
    with pytest.raises(InvalidRequest, match='"1-report" begins with a number, like the ID of a session'):
        make(1).make_id("1-report")


def test_an_id_with_a_number_that_no_replica_has_is_not_moved() -> None:
    """The replica that is asked says that there is no such session."""
    assert make(1).list_ids("9-report") == ("9-report",)


def test_background_calls_are_found_from_every_replica() -> None:
    """The ID of a call says which replica knows of it."""
    call = make(2).make_call_id()
    make(2).check_call(call)
    with pytest.raises(Moved, match="is one of replica 2, at") as moved:
        make(0).check_call(call)
    assert moved.value.url == URLS[2]


def test_an_address_that_is_not_known_yet_is_looked_for() -> None:
    """The replica reads the table again before it says that an address is absent."""
    replicas = make(0, make_table([URLS[0], None, None]))
    with pytest.raises(Unavailable, match="replica 1, which has no address now; try again"):
        replicas.check_home("1-report")
    replicas.refresh = lambda: replicas.replace_table(make_table())
    with pytest.raises(Moved, match=URLS[1]):
        replicas.check_home("1-report")


def test_a_draining_replica_sends_new_sessions_elsewhere() -> None:
    """It still answers for those that it has, and says why it takes no name."""
    draining = make(2, make_table(draining=2))
    with pytest.raises(Moved, match="new sessions belong to replica 0") as moved:
        draining.make_id(None)
    assert moved.value.url == URLS[0]
    name = next(name for name in NAMES if choose_home(name, 3) == 2)
    assert draining.list_ids(name) == (name, f"2-{name}")
    with pytest.raises(Unavailable, match="belong to replica 2, which will be removed"):
        draining.make_id(name)
    assert make(0, make_table(draining=2)).make_id(None).startswith("0-")


def test_when_all_replicas_drain_there_are_no_new_sessions() -> None:
    """The error says that this passes for none of them."""
    with pytest.raises(Unavailable, match="all replicas of this backend will be removed"):
        make(0, make_table([URLS[0], None], draining=0)).make_id(None)


def make_updated(own: int | None = None, sessions: list[str] | None = None) -> ReplicaTable:
    """The table after an update of replica 0 of one, with the sessions that its former launch has named."""
    former = ReplicaEntry(URLS[1], draining=True, left=0, sessions=sessions)
    return ReplicaTable(1, [ReplicaEntry(URLS[0]), former], own)


@pytest.mark.parametrize("session", ["kept", "0-kept", "s-1"])
def test_a_session_from_before_an_update_is_found(session: str) -> None:
    """Servers and routers find it by its ID and by its name, with and without the number of its replica."""
    table = make_updated(sessions=["0-kept", "s-1"])
    assert table.find_home(session) == 1
    with pytest.raises(Moved) as raised:
        make(0, table).check_left(session)
    assert raised.value.url == URLS[1]
    with pytest.raises(Moved):
        make(0, table).make_id(session) if session == "kept" else make(0, table).check_left(session)


def test_a_new_launch_asks_the_former_one_until_that_names_its_sessions() -> None:
    """Then a session that it does not name is unknown to both."""
    with pytest.raises(Moved) as raised:
        make(0, make_updated()).check_left("any")
    assert raised.value.url == URLS[1]
    make(0, make_updated(sessions=["kept"])).check_left("any")
    assert make_updated(sessions=["kept"]).find_home("any") == 0


def test_a_replaced_launch_takes_no_new_sessions() -> None:
    """It sends them to the new launch, and sessions that it does not have."""
    replaced = make(0, make_updated(own=1, sessions=[]))
    assert replaced.replaced
    for ask in (replaced.make_id, replaced.check_left):
        with pytest.raises(Moved) as raised:
            ask("new")
        assert raised.value.url == URLS[0]


def test_each_launch_asks_the_one_before_it_for_an_unknown_call() -> None:
    """After two updates a call of the oldest launch is found, and only that one says that there is no such call."""
    former = [ReplicaEntry(url, draining=True, left=0, sessions=[]) for url in URLS[1:]]
    entries = [ReplicaEntry(URLS[0]), *former]
    for own, before in ((None, URLS[2]), (2, URLS[1])):
        with pytest.raises(Moved) as raised:
            make(0, ReplicaTable(1, entries, own)).check_left_call("any")
        assert raised.value.url == before
    make(0, ReplicaTable(1, entries, 1)).check_left_call("any")
