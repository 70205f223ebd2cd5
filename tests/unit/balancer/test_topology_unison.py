"""Who has to be waited for with a record that could come into force."""

from __future__ import annotations

from balancer.unison import Unison
from frys_node.base.types import Epoch, NodeId, Term

A, B = NodeId("a"), NodeId("b")
FIRST, SECOND = (Epoch(Term(1, A), number) for number in (1, 2))


def test_a_record_waits_for_every_usable_member_that_is_not_ready_for_this_very_record() -> None:
    """A word about another record counts for nothing, and nobody waits for a member that is not usable."""
    unison = Unison()
    unison.sent(SECOND, [A, B])
    unison.ready(A, SECOND)
    unison.ready(B, FIRST)
    assert not unison.is_ready(SECOND, lambda _node: True)
    assert unison.is_ready(SECOND, lambda node: node == A)
    unison.ready(B, SECOND)
    assert unison.is_ready(SECOND, lambda _node: True)


def test_a_record_that_was_not_sent_ahead_waits_for_nobody() -> None:
    """A takeover, or what the register held at a start."""
    unison = Unison()
    unison.sent(FIRST, [A, B])
    assert unison.is_ready(SECOND, lambda _node: True)


def test_whoever_works_under_a_record_lets_it_and_all_before_it_pass() -> None:
    """News of an older record, which may come late, takes nothing back."""
    unison = Unison()
    assert not unison.may_adopt(FIRST)
    unison.go(SECOND)
    unison.go(FIRST)
    assert unison.may_adopt(FIRST)
    assert unison.may_adopt(SECOND)
    assert not unison.may_adopt(Epoch(Term(2, B), 1))
