"""Sessions of the client: the token goes along, and what answers saw is joined."""

from __future__ import annotations

import pytest
from client_rig import get, known

from frys_node.base.errors import UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.client.calls import Answer, Call
from frys_node.client.memory import Memory
from frys_node.client.run import Run
from frys_node.wire.sessions import HEADER, NEW, UNITS_MAX, InvalidSession, Session

ONE, TWO = UnitId("cache/1"), UnitId("cache/2")
N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def told(*notes: tuple[UnitId, dict[NodeId, int]], after: str = NEW, status: int = 200) -> Answer:
    """An answer whose request was made with a token, and saw something more."""
    session = Session.decode(after)
    for unit, places in notes:
        session.note(unit, places)
    return Answer(status, {HEADER.lower(): session.encode()}, b"{}")


def test_each_request_carries_what_was_seen_by_then() -> None:
    """The first says `new`; one that is no request for data is left alone."""
    memory = Memory()
    assert memory.dress(get()).headers == ((HEADER, NEW),)
    memory.heard(told((ONE, {N1: 3, N2: 4})))
    ((_, token),) = memory.dress(get()).headers
    assert Session.decode(token).places(ONE) == {N1: 3, N2: 4}
    bare = Call("GET", "/v1/placement")
    assert memory.dress(bare) == bare
    assert Memory(memory.token).dress(get()).headers == ((HEADER, token),)
    memory.heard(Answer(200, {}, b"{}"))
    assert memory.token == token


def test_answers_to_requests_at_once_are_joined() -> None:
    """Of one unit only who holds what both saw is left, once it has come to the later place; others are kept."""
    memory = Memory()
    memory.heard(told((ONE, {N1: 3, N2: 4, N3: 5})))
    sent = memory.token
    memory.heard(told((ONE, {N1: 7, N2: 8}), after=sent))
    memory.heard(told((ONE, {N2: 6, N3: 9}), (TWO, {N3: 1}), after=sent))
    seen = Session.decode(memory.token)
    assert seen.places(ONE) == {N2: 8}
    assert seen.places(TWO) == {N3: 1}
    memory.heard(told((TWO, {N1: 2}), after=sent))
    assert Session.decode(memory.token).places(TWO) == {}


def test_what_a_node_had_to_forget_is_forgotten() -> None:
    """And a token that nobody can read leaves nobody who is known to hold anything."""
    memory = Memory()
    memory.heard(told((ONE, {N1: 3})))
    full = [(UnitId(f"vector/c/{number}"), {N1: 1}) for number in range(UNITS_MAX + 1)]
    memory.heard(told(*full))
    seen = Session.decode(memory.token)
    assert seen.places(ONE) == {}
    assert seen.places(full[0][0]) == {N1: 1}
    memory.heard(Answer(200, {HEADER.lower(): "junk!"}, b"{}"))
    assert Session.decode(memory.token).places(full[0][0]) == {}


def test_a_session_never_grows_beyond_what_a_node_accepts() -> None:
    """Joining sessions of other units forgets, and what was forgotten once is read at a quorum from then on."""
    memory = Memory()
    for number in range(3 * UNITS_MAX):
        memory.heard(told((UnitId(f"cache/{number}"), {N1: 1, N2: 1})))
    seen = Session.decode(memory.token)
    assert len(seen._units) == UNITS_MAX
    assert seen.places(UnitId("cache/0")) == {}
    assert seen.places(UnitId("cache/1")) == {N1: 1, N2: 1}
    assert seen.places(UnitId(f"cache/{3 * UNITS_MAX - 1}")) == {}


def test_a_run_dresses_its_calls_and_listens_to_every_answer_errors_too() -> None:
    """A call that is sent again carries what the refusal told."""
    memory = Memory(read_repair="wait")
    run = Run(known(), [get()], 10.0, 0.0, memory)
    (flight,) = run.begin(1.0)
    assert flight.calls[0].path.endswith("/k0?read_repair=wait")
    refused = told((ONE, {N1: 3}), status=503)._replace(
        body=b'{"error":{"code":"routing.no_replica","message":"no","hint":""}}'
    )
    (again,) = run.landed(flight, [refused], 1.5)
    assert dict(again.calls[0].headers)[HEADER] == memory.token
    assert Session.decode(memory.token).places(ONE) == {N1: 3}
    run.landed(again, [told((ONE, {N1: 5}), after=memory.token, status=404)], 2.0)
    assert Session.decode(memory.token).places(ONE) == {N1: 5}


def test_what_a_session_cannot_be_is_refused_at_once() -> None:
    """Junk for a token, or an unknown word for the repair."""
    with pytest.raises(InvalidSession):
        Memory("junk!")
    with pytest.raises(UsageError, match="is not known"):
        Memory(read_repair="never")
    assert (
        Memory(read_repair="wait")
        .dress(Call("GET", "/collections/c/points?x=1"))
        .path.endswith("?x=1&read_repair=wait")
    )
