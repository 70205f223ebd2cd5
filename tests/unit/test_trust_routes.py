"""What `node revoke` says that an expelled node may still hold, and `status --security` of when it was expelled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from balancer.issuer_driver import IssuerView
from frys_node.base.errors import NotReady
from frys_node.base.types import NodeId
from frys_node.secure.api_tokens import ApiTokens, Grant
from frys_node.secure.keyring import EpochKey, Keyring
from frys_node.testing.disk import FakeDisk
from frys_node.trust_routes import TOKENS_SHOWN_MAX, TrustRoutes, api_token_warnings, last_expulsion_by

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


def test_the_time_of_the_last_expulsion_is_that_of_the_oldest_key_that_shuts_all_of_them_out() -> None:
    """Exact while that key is kept, an upper bound afterwards, unknown where no key was made with it; never a guess."""
    keyring = Keyring([EpochKey(1, b"1" * 32, made_unix_s=100)])
    assert last_expulsion_by(keyring.keys, 0) is None
    # Expelled by the word of an issuer that cannot make keys.
    assert last_expulsion_by(keyring.keys, 1) is None
    told = []
    for epoch in range(2, 7):
        keyring.merge([EpochKey(epoch, bytes([epoch]) * 32, made_unix_s=100 * epoch, expelled=1)])
        told.append(last_expulsion_by(keyring.keys, 1))
    assert told == [200, 200, 200, 300, 400]
    # Of a second one that has no key yet.
    assert last_expulsion_by(keyring.keys, 2) is None
    assert last_expulsion_by([EpochKey(2, b"2" * 32, expelled=1)], 1) is None


async def test_the_picture_says_who_the_issuer_is_also_before_there_is_a_record() -> None:
    """By the record in force, with what the issuer says of itself; until then by the node's own certificate."""
    view = IssuerView(
        issuer=B, term=3, epoch="3.7", answers=True, can_admit=True, standby=["c"], successor=None, promised=""
    )
    shown: list[IssuerView] = []

    async def show() -> IssuerView:
        if not shown:
            raise NotReady("this node has no topology record yet")
        return shown[0]

    channel = SimpleNamespace(expulsions=SimpleNamespace(), issuer=X)
    balancer = SimpleNamespace(verbs=SimpleNamespace(show=show))
    membership = SimpleNamespace(get={B: SimpleNamespace(name="beta")}.get)
    parts: list[Any] = [cast("Any", part) for part in (channel, balancer, membership, None)]
    routes = TrustRoutes(*parts, live=list, tokens=cast("Any", None), listeners=list)
    told = await routes._issuer()
    assert (told["id"], told["name"], told["term"], told["answers"]) == (X, X, 0, False)
    shown.append(view)
    assert await routes._issuer() == {
        "id": B,
        "name": "beta",
        "term": 3,
        "answers": True,
        "can_admit": True,
        "standby": ["c"],
    }
