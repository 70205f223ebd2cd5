"""What is said of a name that is not that of exactly one member."""

from __future__ import annotations

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Condition, MemberView, Status, is_short_for, not_sole


def view(number: int, name: str, status: Status = Status.ALIVE) -> MemberView:
    """Make a member."""
    return MemberView(
        name=name,
        id=NodeId(f"{number:032x}"),
        address=Address("127.0.0.1", 7946),
        status=status,
        condition=Condition.OK,
        incarnation=0,
        boot=1,
        tags={},
    )


def test_an_ambiguous_name_is_told_with_the_ids_to_choose_of() -> None:
    """The table of members shows no ids: the message has them, and how each member is."""
    error = not_sole("bob", [view(1, "ann"), view(2, "bob", Status.DEAD), view(3, "bob")])
    assert error.message == f"2 members are named 'bob': {2:032x} (dead), {3:032x} (alive)"
    assert error.hint == "name it by its id"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A mistyped name is named back, shortened, with the one that was meant."""
    members = [view(1, "gateway-1"), view(2, "worker")]
    assert not_sole("gatway-1", members).message == "there is no member 'gatway-1'; did you mean 'gateway-1'?"
    assert not_sole("x" * 9_999, members).message == f"there is no member '{'x' * 64}'"


def test_the_beginning_of_an_id_stands_for_it_if_it_is_long_enough() -> None:
    """Four hex digits in either case are meant as an id; fewer could be anything."""
    node = NodeId("ab12" + 28 * "0")
    assert is_short_for("ab12", node)
    assert is_short_for("AB120", node)
    assert not is_short_for("ab1", node)
    assert not is_short_for("b120", node)


def test_an_ambiguous_beginning_is_told_with_the_candidates() -> None:
    """Several ids begin so: the message has each with its name."""
    error = not_sole("0000", [view(1, "ann"), view(2, "bob", Status.DEAD)])
    assert error.message == f"the ids of 2 members begin with '0000': {1:032x} (ann, alive), {2:032x} (bob, dead)"
    assert error.hint == "write more of the id, or the name"
