"""Who was admitted and has no name any more: what is remembered, for how long, and in how much room."""

from __future__ import annotations

import pytest

from frys_node.base.errors import CorruptData
from frys_node.base.types import NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.statements import Statements
from frys_node.testing.disk import FakeDisk
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.departures import ADOPTED_MAX, DEPARTURES_MAX, REMEMBER_S, Departure, Departures
from frys_node.trust.messages import Credentials


def _id(number: int) -> NodeId:
    return NodeId(f"{number:032x}")


def test_a_node_that_left_has_left_for_good_and_one_whose_name_was_freed_has_not() -> None:
    """Neither a freed name nor a second farewell brings it back; the table is written so, and read."""
    table = Departures()
    table.free(_id(1), "a")
    assert not table.has_left(_id(1))
    assert table.end(_id(2), "b", 1_800_000_000)
    assert not table.end(_id(2), "b", 1_900_000_000)
    table.free(_id(2), "b")
    assert table.find(_id(2)) == Departure("b", 1_800_000_000)
    assert table.left() == [_id(2)]
    golden = (
        b'{"00000000000000000000000000000001":{"name":"a","left_at":null,"is_adopted":false},'
        b'"00000000000000000000000000000002":{"name":"b","left_at":1800000000,"is_adopted":false}}'
    )
    assert table.encode() == golden
    before = Departures()
    before.restore(golden.replace(b',"is_adopted":false', b""))
    assert before.encode() == golden
    again = Departures()
    again.restore(golden)
    assert (again.find(_id(1)), again.left()) == (Departure("a"), [_id(2)])
    again.named(_id(1))
    assert again.find(_id(1)) is None
    with pytest.raises(CorruptData, match="damaged"):
        again.restore(golden[:-1])
    assert again.left() == [_id(2)]


def test_a_node_that_a_record_alone_speaks_for_stays_so_until_it_is_confirmed_or_leaves() -> None:
    """Nothing but an operator's word makes it a member; the mark is on the disk, and there is room for some only."""
    table = Departures()
    assert [table.adopt(_id(number), f"n{number}") for number in range(ADOPTED_MAX + 1)] == [True] * ADOPTED_MAX + [
        False
    ]
    assert not table.is_adopted(_id(ADOPTED_MAX))
    table.free(_id(0), "n0")
    again = Departures()
    again.restore(table.encode())
    assert again.adopted()[0] == (_id(0), "n0")
    assert again.confirm(_id(0))
    assert not again.confirm(_id(0))
    assert (again.is_adopted(_id(0)), again.find(_id(0))) == (False, Departure("n0"))
    assert again.end(_id(1), "n1", 5)
    assert not again.is_adopted(_id(1))
    assert not again.confirm(_id(1))


def test_who_left_is_forgotten_when_no_certificate_of_it_lives_and_first_of_all_when_room_is_short() -> None:
    """Unknown nodes are refused as those that left are; one whose name was freed may come back."""
    table = Departures()
    table.end(_id(1), "a", 1)
    table.end(_id(2), "b", 2 + REMEMBER_S)
    assert table.left() == [_id(2)]
    table = Departures()
    table.free(_id(0), "old")
    for number in range(1, DEPARTURES_MAX + 3):
        table.end(_id(number), "n", number)
    assert len(table.left()) == DEPARTURES_MAX - 1
    assert table.find(_id(0)) is not None
    assert [table.has_left(_id(number)) for number in (1, 3, 4, DEPARTURES_MAX + 2)] == [False, False, True, True]


def test_a_member_keeps_who_left_by_the_authoritys_signature_durably_and_in_bounds() -> None:
    """Whoever makes itself the issuer without the authority's key ends nobody; the latest ones are kept."""
    home, disk = FakeDisk(), FakeDisk()
    identity = create_cluster(home, SystemEntropy(), SystemClock(), cluster_name="t", node_name="a")
    issuer, secrets = MemberSecrets(home), MemberSecrets(disk)
    issuer.statements = Statements(identity)
    bare = identity.renewed(identity.certificate)
    bare.ca_key = None
    secrets.statements = Statements(bare)
    issuer.depart(_id(1))
    first = issuer.offer()
    issuer.depart(_id(2))
    told = issuer.offer()
    assert told.departed == (_id(1), _id(2))
    told = Credentials((), departed=told.departed, departed_signature=told.departed_signature)
    for forged in (
        Credentials((), departed=told.departed),
        Credentials((), departed=told.departed, departed_signature=first.departed_signature),
        Credentials((), departed=(_id(3),), departed_signature=told.departed_signature),
        Credentials((), departed=("zz" * 16,), departed_signature=told.departed_signature),
    ):
        assert not secrets.take(forged, from_issuer=True)
    assert not secrets.take(told, from_issuer=False)
    assert secrets.take(told, from_issuer=True)
    assert not secrets.take(told, from_issuer=True)
    assert list(MemberSecrets(disk).departed) == [_id(1), _id(2)]
    assert secrets.offer().departed == ()
    for number in range(3, DEPARTURES_MAX + 3):
        issuer._merge_departed([_id(number)])
    assert secrets.take(issuer.offer(), from_issuer=True)
    assert tuple(secrets.departed) == issuer.offer().departed == tuple(map(_id, range(3, DEPARTURES_MAX + 3)))
