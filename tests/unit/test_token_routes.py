"""The issuer's second look at who asks for tokens, and that requests of versions before it are read."""

from __future__ import annotations

import msgspec
import pytest

from frys_node.base.access import ADMIN, ANONYMOUS, LOCAL, Principal
from frys_node.base.errors import SecurityError
from frys_node.base.types import NodeId
from frys_node.token_routes import CREATE_TOKEN, REVOKE_TOKEN, CreateToken, RevokedToken, RevokeToken, _checked

NODE = NodeId("a" * 32)


@pytest.mark.parametrize(
    "who", [LOCAL, ANONYMOUS, Principal("token:1", "write", token_id="1"), Principal("token:2", "root", token_id="2")]
)
def test_the_issuer_acts_only_for_who_may_administer(who: Principal) -> None:
    """A forward names its principal; the issuer does not take the entry node's word for what that may do."""
    with pytest.raises(SecurityError, match="may not manage tokens"):
        _checked(who, NODE)


def test_administrators_are_named_in_the_log() -> None:
    """By the token's id, never by the token."""
    assert _checked(ADMIN, NODE) == "admin"
    assert _checked(Principal("token:9d9813e0", "admin", token_id="9d9813e0"), NODE) == "token:9d9813e0"


def test_requests_of_before_are_read_and_ours_by_them() -> None:
    """Fields were added at the ends: three, one and no words still are requests, and nobody is named in them."""
    old = CREATE_TOKEN.request.decode(msgspec.msgpack.encode([3_600.0, 1, "node"]))
    assert old == CreateToken(3_600.0, 1, "node")
    assert (old.asked_by, _checked(old.asked_by, NODE)) == (None, "unknown")
    assert REVOKE_TOKEN.request.decode(msgspec.msgpack.encode(["abc"])) == RevokeToken("abc")
    assert REVOKE_TOKEN.reply.decode(msgspec.msgpack.encode([])) == RevokedToken()
    whole = CreateToken(60.0, None, "read", ("docs",), (), ADMIN)
    assert CREATE_TOKEN.request.decode(CREATE_TOKEN.request.encode(whole)) == whole
