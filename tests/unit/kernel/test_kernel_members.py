"""What is said of a name that is not that of exactly one member."""

from __future__ import annotations

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Condition, MemberView, Status, not_sole


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
