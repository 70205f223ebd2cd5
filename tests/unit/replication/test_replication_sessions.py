"""Session tokens: a client reads its own writes, and never older than it has read; and reads that wait for repair."""

from __future__ import annotations

import pytest

from frys_node.base.access import LOCAL
from frys_node.base.errors import NoReplica
from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.http import HttpRequest, HttpResponse, shaped
from frys_node.kernel.services.sessions import (
    HEADER,
    SESSION,
    TOKEN_CHARS_MAX,
    UNITS_MAX,
    InvalidSession,
    Session,
    in_session,
)
from frys_node.replication import effects as fx
from frys_node.replication.knobs import ReplicaConfig
from frys_node.testing.replica_desk import UNIT, Desk, record_of

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
RING = ["n1", "n2", "n3"]


def test_a_token_survives_the_header_and_keeps_only_who_holds_everything() -> None:
    """Two writes on different pairs leave the replica that has both; none left means a quorum."""
    session = Session.decode("new")
    assert session.places(UNIT) is None
    session.note(UNIT, {N1: 5, N2: 7})
    session.note(UNIT, {N2: 9, N3: 4})
    session = Session.decode(session.encode())
    assert session.places(UNIT) == {N2: 9}
    session.note(UNIT, {N1: 6, N3: 5})
    assert session.places(UNIT) == {}
    other = UnitId("cache/1")
    session.note_read(other, N3, 8)
    assert session.places(other) == {N3: 8}
    session.note(other, {N3: 7})
    assert session.places(other) == {}


def test_a_token_is_bounded_and_what_it_forgets_is_read_at_a_quorum() -> None:
    """Beyond 32 units (`UNITS_MAX`) unknown ones count as seen by no single replica; the header stays below 8 KiB."""
    session = Session()
    node = NodeId("f" * 32)
    for number in range(UNITS_MAX + 5):
        session.note(UnitId(f"vector/{'c' * 16}/{number}"), {node: 1 << 60})
    assert session.places(UnitId("cache/999")) == {}
    assert len(session.encode()) < TOKEN_CHARS_MAX
    assert Session.decode(session.encode()).places(UnitId("cache/999")) == {}


def test_every_token_that_was_given_is_accepted_and_forgets_nothing_silently() -> None:
    """32 units of five replicas are more than 8 KiB: it names fewer replicas, and what it drops is read at a quorum."""
    session = Session()
    nodes = [NodeId(f"{number:x}" * 32) for number in range(1, 6)]
    units = [UnitId(f"cache/{number}") for number in range(UNITS_MAX)]
    for unit in units:
        session.note(unit, {node: (1 << 60) + number for number, node in enumerate(nodes)})
    text = session.encode()
    assert 4_096 < len(text) <= TOKEN_CHARS_MAX
    found = Session.decode(text)
    assert found.encode() == text
    for unit in units:
        assert found.places(unit) == {node: (1 << 60) + number for number, node in enumerate(nodes[:4])}
    assert found.places(UnitId("cache/999")) is None, "nothing was forgotten"


def test_a_token_of_long_names_forgets_the_units_used_longest_ago() -> None:
    """Those are read at a quorum from then on, and so is every unit that it does not name."""
    session = Session()
    units = [UnitId(f"vector/{'c' * 250}/{number}") for number in range(UNITS_MAX)]
    for unit in units:
        session.note_read(unit, NodeId("f" * 32), 1 << 60)
    session.note_read(units[0], NodeId("f" * 32), 1 << 61)
    text = session.encode()
    assert len(text) <= TOKEN_CHARS_MAX
    found = Session.decode(text)
    assert found.places(units[0]) == {NodeId("f" * 32): 1 << 61}
    assert found.places(units[1]) == {}
    assert found.places(UnitId("cache/999")) == {}
    found.note(units[1], {NodeId("a"): 1})
    assert found.places(units[1]) == {}


async def test_an_error_answer_carries_the_token_too() -> None:
    """What was seen before the error counts; without the header an error has no token."""

    async def answer(_request: HttpRequest) -> HttpResponse:
        session = SESSION.get()
        if session is not None:
            session.note(UNIT, {N1: 3})
        raise NoReplica("nobody")

    for headers in ({"frys-session": "new"}, {}):
        request = HttpRequest(method="GET", path="/", params={}, query={}, headers=headers, body=b"", principal=LOCAL)
        with pytest.raises(NoReplica) as caught:
            await in_session(request, answer)
        response = shaped(caught.value, lambda error: HttpResponse(status=error.status, headers={"X": "1"}))
        assert response.headers["X"] == "1"
        if headers:
            assert Session.decode(response.headers[HEADER]).places(UNIT) == {N1: 3}
        else:
            assert response.headers == {"X": "1"}


@pytest.mark.parametrize("text", ["", "x", "a" * (TOKEN_CHARS_MAX + 1), "wqk=", "\u00e9", "AAAA"])
def test_a_token_that_cannot_be_read_names_the_fix(text: str) -> None:
    """Junk is an error of the client, never a session that has seen nothing."""
    with pytest.raises(InvalidSession) as caught:
        Session.decode(text)
    assert HEADER in caught.value.hint


async def test_a_request_without_the_header_has_no_session_and_one_with_it_gets_the_token_back() -> None:
    """The session hangs at the task of the request and nowhere else."""
    seen: list[Session | None] = []

    async def answer(_request: HttpRequest) -> HttpResponse:
        seen.append(SESSION.get())
        if seen[-1] is not None:
            seen[-1].note(UNIT, {N1: 3})
        return HttpResponse(headers={"ETag": "x"})

    def request(**headers: str) -> HttpRequest:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HttpRequest(method="GET", path="/", params={}, query={}, headers=named, body=b"", principal=LOCAL)

    assert (await in_session(request(), answer)).headers == {"ETag": "x"}
    response = await in_session(request(frys_session="new"), answer)
    assert Session.decode(response.headers[HEADER]).places(UNIT) == {N1: 3}
    assert seen[0] is None
    assert SESSION.get() is None


def read_one(desk: Desk, name: str, least: dict[NodeId, int]) -> fx.ReadDone:
    """Read at one with a token."""
    node = NodeId(name)
    request, effects = desk.coordinators[node].read(
        UNIT, [b"k"], Consistency.ONE, deadline_s=desk.now_s + 5.0, now_s=desk.now_s, least=least
    )
    desk.take(node, effects)
    desk.run()
    done = desk.done[request]
    assert isinstance(done, fx.ReadDone)
    return done


def test_a_read_of_one_with_a_token_goes_to_a_replica_that_has_the_write() -> None:
    """n1 missed the write; through n1 a read of one without a token is old, with it new."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.write("n2", b"old", consistency=Consistency.ALL)
    desk.cut = {("n2", "n1")}
    done = desk.write("n2", b"new")
    desk.cut = set()
    assert isinstance(done, fx.WriteDone)
    assert set(done.seqs) == {N2, N3}
    assert desk.read("n1", consistency=Consistency.ONE) == b"old"
    found = read_one(desk, "n1", dict(done.seqs))
    assert found.entries[0] is not None
    assert found.entries[0].value == b"new"
    assert found.is_of_one


def test_a_replica_that_has_not_come_so_far_gives_no_data_and_a_quorum_is_asked() -> None:
    """A token of a replica that has lost what it had falls back, and still finds the write."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    done = desk.write("n2", b"v", consistency=Consistency.ALL)
    assert isinstance(done, fx.WriteDone)
    found = read_one(desk, "n1", {N3: done.seqs[N3] + 1})
    assert found.entries[0] is not None
    assert found.entries[0].value == b"v"
    assert not found.is_of_one


def test_a_restarted_replica_counts_on_above_what_it_had_counted() -> None:
    """A later boot begins higher, so tokens of before are satisfied; one that is still behind satisfies none."""
    desk = Desk(3, ReplicaConfig(bulk_by_messages=True, catches_up=True))
    desk.adopt(record_of(2, RING))
    done = desk.write("n2", b"v", consistency=Consistency.ALL)
    assert isinstance(done, fx.WriteDone)
    entry = desk.held("n3")
    assert entry is not None
    replica = desk.boot("n3", boot=2)
    replica.load(UNIT, [entry], complete=True, join_key=None)
    desk.cut = {("n3", "n1"), ("n3", "n2")}
    desk.adopt(record_of(2, RING), "n3")
    assert replica.table.units[UNIT].is_behind
    desk.cut = set()
    desk.pass_time(2.0)
    assert not replica.table.units[UNIT].is_behind
    assert replica.table.units[UNIT].seq > done.seqs[N3]
    assert read_one(desk, "n1", {N3: done.seqs[N3]}).is_of_one


def test_a_read_that_waits_for_repair_returns_only_what_a_quorum_holds() -> None:
    """A write that only one replica took is put on a second before it is shown, so that no later read misses it."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.cut = {("n2", "n1"), ("n2", "n3")}
    assert desk.write("n2", b"half") is None
    desk.cut = {("n1", "n3"), ("n3", "n1"), ("n2", "n1")}
    request, effects = desk.coordinators[N1].read(
        UNIT, [b"k"], Consistency.QUORUM, deadline_s=5.0, now_s=0.0, waits_repair=True
    )
    desk.take(N1, effects)
    desk.run()
    assert request not in desk.done
    desk.cut = {("n1", "n3"), ("n3", "n1")}
    desk.keeps = lambda _a, target, message: target == N1 and type(message).__name__ == "RepairAck"
    desk.pass_time(1.0)
    assert request not in desk.done, "the result is known, and only one replica is known to hold it"
    assert desk.held("n1") is not None
    desk.release()
    done = desk.done[request]
    assert isinstance(done, fx.ReadDone)
    assert done.entries[0] is not None
    desk.cut = {("n2", "n3"), ("n2", "n1"), ("n1", "n2"), ("n3", "n2")}
    assert desk.read("n3") == b"half"
