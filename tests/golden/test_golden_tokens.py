"""The issuer's table of join tokens, as earlier releases wrote it, loads for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.secure.errors import TokenRevoked
from frys_node.secure.token import TokenTable, parse_token

GOLDEN = Path(__file__).parent
PREMADE, REVOKED = "frys0." + "p" * 30, "frys0." + "q" * 30


def _table(version: int) -> TokenTable:
    table = TokenTable("prod", "ab" * 16)
    table.restore((GOLDEN / f"token-table-{version}.json").read_bytes())
    return table


def test_a_table_of_version_1_loads_with_nothing_revoked() -> None:
    """It forgot revoked tokens: both of its rows come back, and any pre-made one is taken."""
    table = _table(1)
    assert {info.id: (info.uses_left, info.used) for info in table.list(6)} == {
        "20212223": (2, 1),
        parse_token(PREMADE).id: (None, 0),
    }
    assert table.add_premade(REVOKED, 6) == parse_token(REVOKED).id


def test_a_table_of_version_2_remembers_what_was_revoked_and_is_frozen() -> None:
    """Byte for byte what this release writes."""
    table = _table(2)
    with pytest.raises(TokenRevoked):
        table.add_premade(REVOKED, 6)
    assert len(table.list(6)) == 2
    assert table.encode() + b"\n" == (GOLDEN / "token-table-2.json").read_bytes()
