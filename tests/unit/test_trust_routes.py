"""What `node revoke` says that an expelled node may still hold."""

from __future__ import annotations

from frys_node.base.types import NodeId
from frys_node.secure.api_tokens import ApiTokens, Grant
from frys_node.testing.disk import FakeDisk
from frys_node.trust_routes import TOKENS_SHOWN_MAX, api_token_warnings

X, B = NodeId("0e" * 16), NodeId("0b" * 16)


def test_api_tokens_that_were_made_through_an_expelled_node_are_named() -> None:
    """A member can have tokens made before it is expelled: they outlive it, and nobody was told which they are."""
    tokens = ApiTokens(FakeDisk())
    made = [
        tokens.create(bytes([number]) * 36, Grant(role="read", ttl_s=ttl_s), now_unix_s=9, term=1, made_through=through)
        for number, (through, ttl_s) in enumerate([(X, 60.0), (B, 60.0), (X, 5.0), ("", 60.0)])
    ]
    ids = [info.id for _, info in made]
    (told,) = api_token_warnings(tokens.infos(20), X, "mallory")
    assert told == f"1 API token was made through mallory, still valid: frys-node token revoke ID, for {ids[0]}"
    assert api_token_warnings(tokens.infos(20), NodeId("0c" * 16), "c") == []
    for number in range(4, 5 + TOKENS_SHOWN_MAX):
        tokens.create(bytes([number]) * 36, Grant(role="read"), now_unix_s=9, term=1, made_through=X)
    (told,) = api_token_warnings(tokens.infos(20), X, "mallory")
    assert told.startswith(f"{2 + TOKENS_SHOWN_MAX} API tokens were made through mallory")
    assert told.endswith("and 2 more")
