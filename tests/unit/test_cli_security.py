"""What people read of the cluster's protection, and of an expulsion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from frys_node.base.errors import UsageError
from frys_node.cli import node_revoke, status_security

MEMBERS = [
    {"name": "a", "error": "", "primary": 5, "expelled": 1, "refuses": True},
    {"name": "b", "error": "", "primary": 4, "expelled": 1, "refuses": True},
    {"name": "c", "error": "no answer within 2 s", "primary": None, "expelled": 0, "refuses": False},
]
REVOKED: dict[str, Any] = {
    "name": "mallory",
    "id": "0e" * 16,
    "is_new": True,
    "is_expelled": False,
    "epoch": 5,
    "converged": 1,
    "refusing": 2,
    "expelled": 1,
    "total": 3,
    "took_s": 10.01,
    "members": MEMBERS,
    "dead": ["d"],
    "is_on_ring": True,
    "warnings": ["2 join tokens are valid: revoke those that mallory may know (frys-node token list)"],
}
SECURITY: dict[str, Any] = {
    "name": "a",
    "cluster": "prod",
    "trouble": "",
    "sessions": [
        {
            "peer": "b",
            "id": "0b" * 16,
            "group": "X25519MLKEM768",
            "cipher": "TLS_AES_256_GCM_SHA384",
            "version": "TLSv1.3",
            "direction": "dialled",
            "age_s": 61.0,
            "bytes": 1_500_000,
            "rekey_in_s": 3_000.0,
        }
    ],
    "members": [],
    "post_quantum": {"sessions": 6, "of": 6, "answered": 3, "members": 3},
    "identity": {
        "identity": "ed25519",
        "summary": "post-quantum confidentiality, classical authentication",
        "voices": "ed25519",
    },
    "issuer": {"id": "0a" * 16, "name": "a", "term": 3, "answers": True, "can_admit": True, "standby": []},
    "authority": {"id": "c0ffee", "trusted": 1},
    "certificate": {"left_days": 300.2, "issued_at": 1_790_000_000, "least_left_days": 12.3, "least": "b"},
    "keys": {"epoch": 7, "converged": 3, "total": 3, "refusing": 3, "rotates_at": 1_800_000_000, "made_at": 1},
    "expelled": [],
    "last_expulsion_by": None,
    "tokens": {"valid": 1, "used": 2, "expired": 0, "error": ""},
    "refusals": {"alpn": 1, "not_tls": 12},
    "listeners": [{"what": "HTTP", "address": "127.0.0.1:8080", "protection": "this machine only"}],
}


class Client:
    """A node that answers with one body."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.asked: list[tuple[str, str]] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((method, path))
        return self.body


def _arguments(*, yes: bool) -> argparse.Namespace:
    return argparse.Namespace(node="mallory", yes=yes, json=False, holds_authority=False)


def test_an_expulsion_that_is_not_everywhere_yet_says_who_is_behind(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, the figures as n/n, who is behind or dead, and the separate step that takes its place away."""
    client = Client(REVOKED)
    assert node_revoke.run(_arguments(yes=True), client) == 1  # type: ignore[arg-type]
    assert client.asked == [(method, "/v1/members/mallory/revoke") for method in ("GET", "POST")]
    told = capsys.readouterr().out
    assert "refused by 2/3 members" in told
    assert "epoch 5: 1/3 seal with it" in told
    assert "behind: b, c" in told
    assert "dead, not counted: d" in told
    assert "frys-node node remove mallory" in told
    assert "2 join tokens are valid" in told


def test_an_expulsion_everywhere_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a node that was expelled before, of which nothing has to be typed."""
    body = REVOKED | {"members": MEMBERS[:1], "is_new": False, "is_expelled": True, "total": 1, "converged": 1}
    assert node_revoke.run(_arguments(yes=False), Client(body)) == 0  # type: ignore[arg-type]
    assert "was expelled before" in capsys.readouterr().out


def test_an_expulsion_is_typed_before_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal it wants ``--yes``; nothing was asked of the node."""
    client = Client(REVOKED)
    with (tmp_path / "empty").open("w+") as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(UsageError, match="nobody is there") as caught:
            node_revoke.run(_arguments(yes=False), client)  # type: ignore[arg-type]
    assert "--yes" in caught.value.hint
    assert [method for method, _ in client.asked] == ["GET"]
    assert "as a new node" in capsys.readouterr().err


def test_the_page_says_each_thing_once_and_plainly() -> None:
    """Post-quantum share, what the identity means, the issuer, least days, n/n, next rotation, tokens, refusals."""
    page = status_security.text(SECURITY)
    for line in (
        "sessions:     6/6 post-quantum (100 %)",
        "identity:     ed25519: post-quantum confidentiality, classical authentication",
        "authority:    c0ffee",
        "voices:       ed25519: classical whatever the identity is; only a member could make use of a forged one",
        "issuer:       a, term 3",
        "certificates: 300 days left here, issued 2026-09-21 14:13 UTC; least in the cluster 12 (b)",
        "gossip keys:  epoch 7: 3/3 seal with it; rotates next 2027-01-15 08:00 UTC",
        "expelled:     nobody",
        "join tokens:  1 valid, 2 used up, 0 expired",
        "  b     X25519MLKEM768  TLS_AES_256_GCM_SHA384  dialled  61 s  1.4 MiB  50 min",
        "  HTTP  127.0.0.1:8080  this machine only",
    ):
        assert line in page.splitlines(), page
    assert page.index("not_tls") < page.index("alpn")
    assert "trouble" not in page


def test_the_page_hides_nothing_that_is_wrong() -> None:
    """A session without a post-quantum part, members and an issuer that do not answer, and this node's own trouble."""
    wrong = SECURITY | {
        "trouble": "this node was expelled from its cluster",
        "post_quantum": {"sessions": 5, "of": 6, "answered": 2, "members": 3},
        "tokens": {"valid": 0, "used": 0, "expired": 0, "error": "the issuer a does not answer"},
        "expelled": [{"name": "mallory", "id": "0e" * 16, "is_signed": False}],
        "last_expulsion_by": 1_795_000_000,
        "issuer": SECURITY["issuer"] | {"answers": False, "can_admit": None},
        "keys": SECURITY["keys"] | {"rotates_at": None, "refusing": 2},
        "authority": {"id": "c0ffee", "trusted": 2},
    }
    page = status_security.text(wrong)
    assert "trouble:      this node was expelled" in page
    assert "5/6 post-quantum (83 %); only 2/3 members answered" in page
    assert "not known: the issuer a does not answer" in page
    assert "1, refused by 2/3 members; the last by 2026-11-18 11:06 UTC" in page
    assert "issuer:       a, term 3; does not answer" in page
    assert "rotates when asked" in page
    assert "c0ffee; 1 more trusted: one follows another" in page
    assert "none: this node is alone" in status_security.text(
        SECURITY | {"post_quantum": {"sessions": 0, "of": 0, "answered": 1, "members": 1}}
    )


def test_the_page_says_whether_the_issuer_can_admit_and_who_else_could() -> None:
    """An issuer without the authority's key renews nobody; a standby that keeps the key is one more to guard."""
    keeps = SECURITY["issuer"] | {"standby": ["b", "c"]}
    assert "a, term 3; the key is kept by b, c too" in status_security.text(SECURITY | {"issuer": keeps})
    bare = SECURITY["issuer"] | {"can_admit": False}
    assert "a, term 3; does not hold the authority's key" in status_security.text(SECURITY | {"issuer": bare})


def test_the_page_of_a_node_that_is_older_than_the_command_has_what_that_node_says() -> None:
    """A node goes on running while its program is upgraded: no line is missed by what it does not know of."""
    older = {key: value for key, value in SECURITY.items() if key not in ("issuer", "last_expulsion_by")}
    older["identity"] = {key: value for key, value in SECURITY["identity"].items() if key != "voices"}
    older["certificate"] = {key: value for key, value in SECURITY["certificate"].items() if key != "issued_at"}
    page = status_security.text(older)
    assert "certificates: 300 days left here; least in the cluster 12 (b)" in page
    assert "issuer:" not in page
    assert "voices:" not in page


def test_the_page_names_whoever_nobody_admitted_and_when_the_authority_was_replaced() -> None:
    """Both are how an operator hears that the authority's key, or a member, is in wrong hands."""
    assert "NEVER ADMITTED" not in status_security.text(SECURITY)
    wrong = {
        "strangers": [{"name": "ghost", "id": "0f" * 16}],
        "authority": {"id": "c0ffee", "trusted": 1, "changed_at": 1_750_000_000},
    }
    text = status_security.text(SECURITY | wrong)
    assert "c0ffee; it followed another on 2025-06-15 15:06 UTC (frys-node ca)" in text
    _, told = text.split(
        "NEVER ADMITTED, UNCONFIRMED OR GONE (frys-node node revoke ID, or node admit ID if it is yours)"
    )
    assert told.split()[:4] == ["NAME", "ID", "ghost", "0f" * 16]
