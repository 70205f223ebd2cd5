"""Join tokens: their text, and the issuer's table."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import CorruptData, NotFound, Overloaded, UsageError
from frys_node.base.types import NodeId
from frys_node.secure import token as tokens
from frys_node.secure.errors import InvalidToken, TokenExpired, TokenRevoked, TokenUnknown, TokenUsedUp, TooManyFailures
from frys_node.secure.token import TokenTable, format_token, parse_token, proof

CA_HASH = "ab" * 16
EXPORTER = b"e" * 32
ALICE, BOB = NodeId("a" * 32), NodeId("b" * 32)
RANDOM = bytes(range(36))


def _table() -> TokenTable:
    return TokenTable("prod", CA_HASH)


def _check(table: TokenTable, text: str, *, node: NodeId = ALICE, at: int = 0, host: str = "h", now_s: float = 0.0):
    read = parse_token(text)
    shown = proof(read.key, b"c", EXPORTER)
    return table.check(read.id, shown, EXPORTER, node=node, host=host, now_unix_s=at, now_s=now_s)


@given(
    st.binary(min_size=32, max_size=32),
    st.from_regex(r"[a-z0-9-]{1,48}", fullmatch=True),
    st.binary(min_size=4, max_size=4),
)
def test_a_token_reads_back_what_it_was_made_of(secret: bytes, cluster: str, token_id: bytes) -> None:
    """Formatting and parsing are inverse, blanks around the text included."""
    text = format_token(cluster, CA_HASH, token_id.hex(), secret)
    assert parse_token(f"  {text}\n") == (token_id.hex(), secret, cluster, CA_HASH)


@given(st.integers(0, 10_000), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567.-"))
def test_a_mistyped_token_is_refused_before_it_is_sent(position: int, letter: str) -> None:
    """One changed letter anywhere is caught by form or checksum, and the secret is not repeated."""
    text = format_token("prod", CA_HASH, "0badcafe", b"s" * 32)
    place = position % len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with pytest.raises(InvalidToken) as caught:
            parse_token(changed)
        assert text[70:100] not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_a_clear_error(text: str) -> None:
    """Nothing but `InvalidToken` comes out of a text that is no token."""
    with suppress(InvalidToken):
        parse_token(text)


def test_a_premade_token_pins_nothing_and_needs_a_long_secret() -> None:
    """``frys0`` tokens carry no hash; one with too little entropy is refused."""
    read = parse_token("frys0." + "x" * 40)
    assert (read.cluster, read.ca_hash, len(read.id)) == (None, None, 8)
    with pytest.raises(InvalidToken, match="26"):
        parse_token("frys0.short")


def test_a_valid_token_is_used_as_often_as_it_may() -> None:
    """Two uses let two nodes in; the third is told how to get another token."""
    table = _table()
    text = table.create(RANDOM, ttl_s=60, uses=2, now_unix_s=0)
    for node in (ALICE, BOB):
        table.use(_check(table, text, node=node), node)
    with pytest.raises(TokenUsedUp) as caught:
        _check(table, text, node=NodeId("c" * 32))
    assert "used 2 times" in caught.value.message
    assert "token create" in caught.value.hint


def test_a_node_whose_reply_was_lost_may_ask_again() -> None:
    """The same node uses a single-use token twice without using it up twice."""
    table = _table()
    text = table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=0)
    table.use(_check(table, text), ALICE)
    table.use(_check(table, text), ALICE)
    assert [info.uses_left for info in table.list(0)] == [0]


def test_an_expired_token_says_since_when() -> None:
    """The refusal names the minutes and the fix."""
    table = _table()
    text = table.create(RANDOM, ttl_s=60, uses=None, now_unix_s=0)
    with pytest.raises(TokenExpired) as caught:
        _check(table, text, at=60 + 12 * 60)
    assert caught.value.message == "the join token expired 12 min ago"
    assert "token create" in caught.value.hint


def test_unknown_and_wrong_tokens_are_refused_alike() -> None:
    """A wrong secret and a revoked id give the same error, so ids cannot be probed."""
    table = _table()
    text = table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=0)
    messages = set()
    wrong = format_token("prod", CA_HASH, parse_token(text).id, b"w" * 32)
    with pytest.raises(TokenUnknown) as caught:
        _check(table, wrong)
    messages.add(caught.value.message)
    table.revoke(parse_token(text).id)
    with pytest.raises(TokenUnknown) as caught:
        _check(table, text)
    messages.add(caught.value.message)
    assert len(messages) == 1


def test_a_proof_of_another_connection_is_worthless() -> None:
    """The proof is bound to the exporter: a relay that replays it elsewhere is refused."""
    table = _table()
    read = parse_token(table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=0))
    shown = proof(read.key, b"c", b"another exporter")
    with pytest.raises(TokenUnknown):
        table.check(read.id, shown, EXPORTER, node=ALICE, host="h", now_unix_s=0, now_s=0.0)


def test_the_issuers_proof_is_not_the_joiners() -> None:
    """A reflected proof does not pass."""
    table = _table()
    read = parse_token(table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=0))
    shown = proof(read.key, b"s", EXPORTER)
    with pytest.raises(TokenUnknown):
        table.check(read.id, shown, EXPORTER, node=ALICE, host="h", now_unix_s=0, now_s=0.0)


def test_an_address_with_many_wrong_tokens_has_to_wait() -> None:
    """After the limit even the right token is not checked; a minute later it is; other addresses never wait."""
    table = _table()
    text = table.create(RANDOM, ttl_s=3600, uses=None, now_unix_s=0)
    wrong = format_token("prod", CA_HASH, "00000000", b"w" * 32)
    for _ in range(tokens.FAILURES_PER_MINUTE):
        with pytest.raises(TokenUnknown):
            _check(table, wrong, host="bad")
    with pytest.raises(TooManyFailures):
        _check(table, text, host="bad")
    assert _check(table, text, host="good")
    assert _check(table, text, host="bad", now_s=60.0)


def test_failures_of_many_addresses_take_bounded_memory() -> None:
    """A flood from changing addresses does not grow the table of failures without end."""
    table = _table()
    wrong = format_token("prod", CA_HASH, "00000000", b"w" * 32)
    for number in range(tokens.FAILURE_ADDRESSES_MAX + 100):
        with pytest.raises(TokenUnknown):
            _check(table, wrong, host=str(number))
    assert len(table._failures) <= tokens.FAILURE_ADDRESSES_MAX + 2


def test_the_table_survives_a_restart_without_any_secret() -> None:
    """What is stored restores the table; the secret's text is not in it."""
    table = _table()
    text = table.create(RANDOM, ttl_s=60, uses=3, now_unix_s=5)
    table.add_premade("frys0." + "p" * 30, 5)
    table.use(_check(table, text, at=5), ALICE)
    stored = table.encode()
    assert b"pppp" not in stored
    again = _table()
    again.restore(stored)
    assert again.list(5) == table.list(5)
    assert again.encode() == stored
    _check(again, text, node=BOB, at=5)
    _check(again, "frys0." + "p" * 30, node=BOB, at=10**9)
    with pytest.raises(CorruptData):
        again.restore(stored[:-3])


@pytest.mark.parametrize(
    ("ttl_s", "uses", "role"),
    [(0, 1, "node"), (1e12, 1, "node"), (60, 0, "node"), (60, 2_000_000, "node"), (60, 1, "x")],
)
def test_senseless_tokens_are_refused(ttl_s: float, uses: int, role: str) -> None:
    """Time, uses and role outside their ranges are usage errors and make nothing."""
    table = _table()
    with pytest.raises(UsageError):
        table.create(RANDOM, ttl_s=ttl_s, uses=uses, now_unix_s=0, role=role)
    assert table.list(0) == []


def test_the_table_is_bounded_and_forgets_old_tokens() -> None:
    """A full table refuses; tokens that expired more than a day ago make room."""
    table = _table()
    for number in range(tokens.TOKENS_MAX):
        table.create(bytes(32) + number.to_bytes(4, "big"), ttl_s=60, uses=1, now_unix_s=0)
    with pytest.raises(Overloaded):
        table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=0)
    assert table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=90_000)
    with pytest.raises(NotFound, match="no token"):
        table.revoke("nope")


def test_a_revoked_premade_token_is_never_accepted_again() -> None:
    """Its hash outlives the table's restart: whoever offers it again is refused, and so is a joiner that shows it."""
    table, text = _table(), "frys0." + "p" * 30
    table.revoke(table.add_premade(text, 5))
    again = _table()
    again.restore(table.encode())
    with pytest.raises(TokenRevoked, match=parse_token(text).id):
        again.add_premade(text, 6)
    with pytest.raises(TokenUnknown):
        _check(again, text)
    assert again.list(6) == []
    assert b"pppp" not in again.encode()
    other = "frys0." + "q" * 30
    assert again.add_premade(other, 7) == parse_token(other).id


def test_revoked_premade_tokens_take_bounded_memory() -> None:
    """Only pre-made ones are remembered, and of too many the first is forgotten."""
    table = _table()
    for number in range(tokens.REVOKED_MAX + 1):
        table.revoke(table.add_premade(f"frys0.{number:030}", 5))
    table.revoke(table.create(RANDOM, ttl_s=60, uses=1, now_unix_s=0).split(".")[3])
    assert len(table._revoked) == tokens.REVOKED_MAX
    assert table.add_premade(f"frys0.{0:030}", 5)
    with pytest.raises(TokenRevoked):
        table.add_premade(f"frys0.{tokens.REVOKED_MAX:030}", 5)
