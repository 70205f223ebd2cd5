"""Settings that all members should share, and what is made of those that do not."""

from __future__ import annotations

import msgspec

from frys_node.base.types import NodeId
from membership.agreement import MEMBERS_MAX, MUST_AGREE, SETTINGS_CHARS_MAX, VALUE_CHARS_MAX, Agreement, Difference
from membership.config import PROFILES, MembershipConfig, for_profile

A, B = NodeId("a" * 32), NodeId("b" * 32)


def test_a_difference_names_both_values_and_is_told_once() -> None:
    """What a member tells again is no news; what it has changed is; and agreement ends it."""
    own = Agreement(MembershipConfig())
    other = Agreement(MembershipConfig(watchers=2, crash_evidence="off"))
    wanted = (Difference("watchers", "2", "3"), Difference("crash_evidence", "off", "on"))
    assert own.take(A, other.text) == wanted
    assert str(wanted[0]) == "watchers is 2 there and 3 here"
    assert own.take(A, other.text) == ()
    assert own.differing(lambda node: True) == {A: wanted}
    assert own.take(A, Agreement(MembershipConfig(watchers=2)).text) == wanted[:1]
    assert own.take(A, own.text) == ()
    assert own.differing(lambda node: True) == {}


def test_other_versions_are_compared_where_they_know_the_same() -> None:
    """A member that tells nothing, or a setting that is not known here, is no difference."""
    own = Agreement(MembershipConfig())
    assert own.take(A, "") == ()
    assert own.take(A, "watchers=3 a_new_one=7") == ()
    (difference,) = own.take(A, "watchers=" + "9" * 400)
    assert len(difference.there) == VALUE_CHARS_MAX
    assert own.take(A, "= == watchers") == (Difference("watchers", "", "3"),)


def test_the_dead_are_forgotten_and_memory_is_bounded() -> None:
    """Whoever may speak here is a member; a thousand of them that differ are remembered, the newest."""
    own = Agreement(MembershipConfig())
    for number in range(MEMBERS_MAX + 5):
        own.take(NodeId(f"{number:032x}"), "watchers=1")
    assert len(own.differing(lambda node: True)) == MEMBERS_MAX
    own.take(B, "watchers=1")
    assert list(own.differing(lambda node: node == B)) == [B]
    assert list(own.differing(lambda node: True)) == [B]


def test_what_is_told_fits_in_every_profile_and_is_known() -> None:
    """Every name is a setting, and the text is within its bound."""
    assert set(MUST_AGREE) <= {field.name for field in msgspec.structs.fields(MembershipConfig)}
    for profile in PROFILES:
        assert 0 < len(Agreement(for_profile(profile)).text) <= SETTINGS_CHARS_MAX // 2
