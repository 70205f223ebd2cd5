"""What `frys-node ca` says of a change that is under way."""

from __future__ import annotations

from frys_node.cli.ca import MISSED_MAX, _text
from frys_node.secure import trust


def test_a_change_under_way_names_who_is_behind_and_why() -> None:
    """The count, the stage, the members behind with their errors, the dead, and what is not trusted any more."""
    body = {
        "stage": "issuing",
        "kind": "ed25519",
        "authority": "ab" * 16,
        "expires_at": 1_750_000_000,
        "also_trusted": ["cd" * 16],
        "retired": ["ef" * 16],
        "moved": 1,
        "total": 2,
        "members": [
            {"name": "a", "id": "1", "has_moved": True, "error": ""},
            {"name": "b", "id": "2", "has_moved": False, "error": "no answer within 5 s"},
        ],
        "away": ["c"],
    }
    text = _text(body)
    assert f"authority {'ab' * 16} (ed25519) issues, until 2025-06-15: 1/2 members have moved" in text
    assert "behind: b (no answer within 5 s)" in text
    assert f"stage issuing: also trusted: {'cd' * 16}" in text
    assert f"not trusted any more: {'ef' * 16}" in text
    assert f"dead, not counted: c (home by themselves for {MISSED_MAX} changes)" in text
    assert MISSED_MAX == trust.MISSED_MAX
    asked = {"changed_at": 1_750_000_000, "asked_by": "admin through b", "strangers": ["ghost (0e)"]}
    text = _text(body | asked)
    assert "made 2025-06-15 15:06, asked for by admin through b" in text
    assert "look like members: ghost (0e) (never admitted, unconfirmed or gone: not counted;" in text
    calm = _text(body | {"stage": "stable", "also_trusted": [], "retired": [], "away": [], "moved": 2})
    assert calm.splitlines()[1].split() == ["NAME", "MOVED", "ERROR"]
