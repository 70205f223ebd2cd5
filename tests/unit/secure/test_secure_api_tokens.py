"""API tokens: what is kept of them, who takes which sheet, and what a wrong one learns."""

from __future__ import annotations

import hashlib
import hmac
import string

import msgspec
import pytest

from frys_node.base.access import ADMIN, Level, Principal
from frys_node.base.errors import CorruptData, NotFound, Overloaded, SecurityError, StorageError, UsageError
from frys_node.secure.admin import AdminTokens
from frys_node.secure.api_tokens import (
    API_TOKENS_MAX,
    API_TOKENS_PATH,
    FORMAT,
    SEQ_LEAD_MAX,
    SHEET_ROWS_MAX,
    WHOLE_MAX,
    ApiAccess,
    ApiToken,
    ApiTokens,
    Grant,
    Revocation,
    TokenSheet,
    Version,
)
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk

NOW = 1_800_000_000
READ = Grant(role="read", ttl_s=60)


def secret_of(seed: int) -> bytes:
    """Return 32 bytes."""
    return hashlib.sha256(seed.to_bytes(4, "big")).digest()


def made(tokens: ApiTokens, grant: Grant = READ, *, seed: int = 1, now: int = NOW, term: int = 1) -> tuple[str, str]:
    """Make a token; returns its text and id."""
    text, info = tokens.create(secret_of(seed) + seed.to_bytes(4, "big"), grant, now_unix_s=now, term=term)
    return text, info.id


def test_a_token_opens_what_its_role_and_scopes_say_until_it_expires() -> None:
    """The principal is the row's; one second before the end it stands, at the end it does not."""
    tokens = ApiTokens(FakeDisk())
    grant = Grant(role="write", ttl_s=60, collections=("docs", "docs"), namespaces=("b", "a"))
    text, token_id = made(tokens, grant)
    wanted = Principal(f"token:{token_id}", "write", ("docs",), ("a", "b"), token_id)
    assert tokens.authenticate(text, NOW + 59) == wanted
    assert tokens.is_valid(wanted, NOW + 59)
    assert tokens.authenticate(text, NOW + 60) is None
    assert not tokens.is_valid(wanted, NOW + 60)
    assert [info.state for info in tokens.infos(NOW + 60)] == ["expired"]


def test_only_the_hash_of_a_token_is_kept() -> None:
    """Neither the disk nor a list has the secret, in any encoding of it that the text uses."""
    disk = FakeDisk()
    tokens = ApiTokens(disk)
    text, token_id = made(tokens)
    stored = disk.read(API_TOKENS_PATH) or b""
    secret = text.rpartition("_")[2]
    assert len(secret) == 52
    assert secret.encode() not in stored
    assert secret_of(1) not in stored
    assert hashlib.sha256(text.encode()).digest() in stored
    assert secret not in repr(tokens.infos(NOW))
    assert token_id in text


def test_every_changed_character_of_a_token_makes_it_nobodys() -> None:
    """No position is left out of the check, the id's neither."""
    tokens = ApiTokens(FakeDisk())
    text, _ = made(tokens)
    made(tokens, Grant(role="admin"), seed=2)
    for place in range(len(text)):
        for letter in string.ascii_lowercase + string.digits + "_":
            changed = text[:place] + letter + text[place + 1 :]
            assert changed == text or tokens.authenticate(changed, NOW) is None
    for other in ("", " ", text + "a", text.upper(), text[:-1], text.replace("_", "-"), text + "\n", "frys_" * 100):
        assert tokens.authenticate(other, NOW) is None


def test_an_unknown_id_is_hashed_and_compared_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both paths do one SHA-256 and one constant-time comparison of 32 bytes: the time does not tell ids."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    tokens = ApiTokens(FakeDisk())
    text, token_id = made(tokens)
    monkeypatch.setattr(hmac, "compare_digest", counting)
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    assert tokens.authenticate(wrong, NOW) is None
    assert tokens.authenticate(wrong.replace(token_id, "ffffffff"), NOW) is None
    assert compared == [(32, 32), (32, 32)]


def test_a_revoked_token_is_refused_and_stays_so_over_a_restart() -> None:
    """What is on the disk is what counts, whether or not the process lived on."""
    disk = FakeDisk()
    tokens = ApiTokens(disk)
    text, token_id = made(tokens)
    kept, _ = made(tokens, seed=2)
    tokens.revoke(token_id, term=1)
    for each in (tokens, ApiTokens(disk)):
        assert each.authenticate(text, NOW) is None
        assert each.authenticate(kept, NOW) is not None
    with pytest.raises(NotFound):
        tokens.revoke(token_id, term=1)


def test_a_member_takes_newer_sheets_only() -> None:
    """An older sheet, or the same again, changes nothing: revoked tokens do not come back."""
    issuer, member = ApiTokens(FakeDisk()), ApiTokens(disk := FakeDisk())
    text, token_id = made(issuer)
    old = issuer.sheet
    assert member.take(old)
    assert member.authenticate(text, NOW) is not None
    issuer.revoke(token_id, term=1)
    assert member.take(issuer.sheet)
    assert not member.take(old)
    assert not member.take(issuer.sheet)
    assert not member.take(msgspec.structs.replace(old, format=FORMAT + 1, seq=99))
    assert member.authenticate(text, NOW) is None
    assert ApiTokens(disk).sheet == issuer.sheet


def test_a_new_issuers_sheet_wins_over_what_an_old_one_wrote_unseen() -> None:
    """The term counts before the sequence: a promoted node's word is final, however much the old one had written."""
    old, new = ApiTokens(FakeDisk()), ApiTokens(FakeDisk())
    made(old)
    new.take(old.sheet)
    unseen = [made(old, seed=seed)[0] for seed in range(2, 6)]
    assert new.reign(2)
    assert not new.reign(2)
    assert new.sheet.version > old.sheet.version
    assert old.take(new.sheet)
    assert all(old.authenticate(text, NOW) is None for text in unseen)


def test_an_issuer_with_an_old_disk_outruns_what_its_members_hold() -> None:
    """Its sheet becomes higher than theirs, so that it does not talk to deaf ears for ever."""
    tokens = ApiTokens(FakeDisk())
    made(tokens)
    tokens.outrun(Version(3, 70), term=3)
    assert tokens.sheet.version > Version(3, 70)
    before = tokens.sheet
    tokens.outrun(Version(1, 1), term=3)
    assert tokens.sheet == before


@pytest.mark.parametrize("seen", [Version(2**53, 1), Version(2, 1), Version(1, 2**53), Version(1, SEQ_LEAD_MAX + 2)])
def test_what_no_issuer_can_have_written_is_not_outrun(seen: Version) -> None:
    """One member's claim neither spends the numbers that there are nor makes a sheet that cannot be read again."""
    tokens = ApiTokens(disk := FakeDisk())
    made(tokens)
    with pytest.raises(SecurityError, match="no issuer has written"):
        tokens.outrun(seen, term=1)
    assert ApiTokens(disk).sheet == tokens.sheet
    assert tokens.sheet.version == Version(1, 1)


def test_a_sheet_that_could_not_be_read_again_is_not_written() -> None:
    """Whatever asks for it: the last number that a sheet may have is refused one, and the disk is as it was."""
    tokens = ApiTokens(disk := FakeDisk())
    tokens.take(TokenSheet(FORMAT, 1, WHOLE_MAX))
    with pytest.raises(Overloaded, match="no sheet"):
        made(tokens)
    assert ApiTokens(disk).sheet.seq == WHOLE_MAX


def test_reigning_in_a_term_that_is_behind_the_sheets_writes_nothing() -> None:
    """The record may be older than the sheet; the sheet is not written anew every five seconds for that."""
    tokens = ApiTokens(FakeDisk())
    made(tokens, term=5)
    assert not tokens.reign(3)
    assert tokens.sheet.version == Version(5, 1)


@pytest.mark.parametrize("is_old_disk", [False, True], ids=["promoted", "old disk"])
def test_a_revocation_outlives_an_issuer_that_has_not_heard_of_it(is_old_disk: bool) -> None:
    """Another node takes the role, or the same with an old disk: who knows refuses the token, and tells the issuer."""
    first, knows, issuer = ApiTokens(FakeDisk()), ApiTokens(disk := FakeDisk()), ApiTokens(FakeDisk())
    text, token_id = made(first)
    kept, _ = made(first, seed=2)
    issuer.take(first.sheet)
    first.revoke(token_id, term=1)
    knows.take(first.sheet)
    term = 1 if is_old_disk else 2
    issuer.reign(term)
    told = issuer.sheet
    knows.take(told, NOW)
    assert knows.authenticate(text, NOW) is None
    assert knows.unheard_of(told) == (token_id,)
    assert issuer.bury(knows.unheard_of(told), term=term)
    issuer.outrun(knows.sheet.version, term=term)
    assert knows.take(issuer.sheet, NOW)
    assert knows.sheet.digest == issuer.sheet.digest
    for each in (issuer, knows, ApiTokens(disk)):
        assert each.authenticate(text, NOW) is None
        assert each.authenticate(kept, NOW) is not None
    assert not issuer.bury(("00000000", token_id), term=term)


def test_revocations_are_forgotten_when_their_tokens_have_been_expired_for_a_day() -> None:
    """A clock that is a day behind would still take the token; after that the id is dead weight."""
    issuer, member = ApiTokens(FakeDisk()), ApiTokens(FakeDisk())
    _, token_id = made(issuer)
    issuer.revoke(token_id, term=1)
    end = NOW + 60 + 86_400
    made(issuer, seed=2, now=end - 1)
    member.take(issuer.sheet, end - 1)
    assert [mark.id for mark in member.sheet.revoked] == [token_id]
    made(issuer, seed=3, now=end)
    member.take(issuer.sheet, end)
    assert (issuer.sheet.revoked, member.sheet.revoked) == ((), ())


def test_too_many_revocations_refuse_new_tokens_and_never_a_revocation() -> None:
    """The ids that are kept are bounded by what may be made, and what is there can always be revoked."""
    tokens = ApiTokens(FakeDisk())
    marks = tuple(Revocation(f"{n:08x}", NOW + 60) for n in range(SHEET_ROWS_MAX - 1))
    tokens.take(TokenSheet(FORMAT, 1, 1, (), marks), NOW)
    _, token_id = made(tokens, seed=9_000)
    with pytest.raises(Overloaded, match="revoked"):
        made(tokens, seed=9_001)
    tokens.revoke(token_id, term=1)
    assert len(tokens.sheet.revoked) == SHEET_ROWS_MAX


@pytest.mark.parametrize(
    "grant",
    [
        Grant(role="root"),
        Grant(role="node"),
        Grant(role="read", ttl_s=0.5),
        Grant(role="read", ttl_s=1e12),
        Grant(role="read", ttl_s=float("nan")),
        Grant(role="admin", collections=("docs",)),
        Grant(role="read", collections=("",)),
        Grant(role="read", namespaces=("a\nb",)),
        Grant(role="read", namespaces=("x" * 256,)),
        Grant(role="read", namespaces=tuple(map(str, range(65)))),
    ],
)
def test_grants_that_make_no_sense_are_refused_and_change_nothing(grant: Grant) -> None:
    """Roles, lives and scopes are bounded; an admin token is never thought to be narrow."""
    tokens = ApiTokens(FakeDisk())
    with pytest.raises(UsageError):
        made(tokens, grant)
    assert tokens.sheet == TokenSheet()


def test_the_sheet_has_a_limit_and_forgets_what_expired_yesterday() -> None:
    """The thousand and first is refused; a day after their end expired rows make room."""
    tokens = ApiTokens(FakeDisk())
    rows = tuple(ApiToken(f"{n:08x}", bytes(32), "read", NOW, NOW + 60) for n in range(API_TOKENS_MAX))
    tokens.take(TokenSheet(FORMAT, 1, 1, rows))
    with pytest.raises(Overloaded, match="1000"):
        made(tokens, seed=5_000)
    made(tokens, seed=5_000, now=NOW + 60 + 86_401)
    assert len(tokens.sheet.tokens) == 1


def test_a_disk_that_refuses_leaves_no_token_that_a_restart_would_forget() -> None:
    """On the issuer nothing is made or revoked that is not on the disk; a member obeys all the same."""
    tokens = ApiTokens(FakeDisk(read_only=True))
    with pytest.raises(StorageError):
        made(tokens)
    assert tokens.sheet == TokenSheet()
    issuer = ApiTokens(FakeDisk())
    text, _ = made(issuer)
    with pytest.raises(StorageError):
        tokens.take(issuer.sheet)
    assert tokens.authenticate(text, NOW) is not None


def test_a_damaged_sheet_says_what_to_do() -> None:
    """It is not taken for an empty one."""
    disk = FakeDisk()
    disk.write(API_TOKENS_PATH, b"\x93junk")
    with pytest.raises(CorruptData, match="damaged") as caught:
        ApiTokens(disk)
    assert "issuer" in caught.value.hint


def test_the_first_stored_sheet_decodes_for_ever() -> None:
    """The bytes that version 1 wrote; appended fields must leave them readable."""
    golden = bytes.fromhex(
        "940102039197a86162636465666768c420" + "11" * 32 + "a472656164ce6b49d200ce6b49d23c91a4646f637391a161"
    )
    sheet = msgspec.msgpack.decode(golden, type=TokenSheet)
    row = ApiToken("abcdefgh", b"\x11" * 32, "read", NOW, NOW + 60, ("docs",), ("a",))
    assert sheet == TokenSheet(1, 2, 3, (row,))
    short = msgspec.msgpack.encode((1, 2, 3, (("abcdefgh", b"\x11" * 32, "read", NOW, NOW + 60),)))
    assert msgspec.msgpack.decode(short, type=TokenSheet).tokens[0].principal.collections == ()


def test_a_row_says_through_which_node_the_token_was_made() -> None:
    """The list shows it, a member holds it, and rows of before have none."""
    issuer, member = ApiTokens(FakeDisk()), ApiTokens(FakeDisk())
    issuer.create(secret_of(1) + bytes(4), READ, now_unix_s=NOW, term=1, made_through="b" * 32)
    member.take(issuer.sheet)
    assert [info.made_through for info in member.infos(NOW)] == ["b" * 32]
    member.take(TokenSheet(FORMAT, 2, 1, (ApiToken("abcdefab", bytes(32), "read", NOW, NOW + 60),)))
    assert [info.made_through for info in member.infos(NOW)] == [""]


def test_uses_are_remembered_to_the_minute_and_forgotten_with_the_token() -> None:
    """A wrong text is no use; a connection that goes on is; nothing is kept of tokens that are gone."""
    tokens = ApiTokens(FakeDisk())
    text, token_id = made(tokens, Grant(role="read", ttl_s=600))
    assert tokens.authenticate(text[:-1] + "7", NOW) is None
    assert tokens.uses() == {}
    who = tokens.authenticate(text, NOW)
    assert who is not None
    assert tokens.uses() == {token_id: NOW - NOW % 60}
    assert tokens.is_valid(who, NOW + 130)
    assert tokens.uses() == {token_id: NOW + 130 - (NOW + 130) % 60}
    made(tokens, seed=2)
    assert list(tokens.uses()) == [token_id]
    tokens.revoke(token_id, term=1)
    assert tokens.uses() == {}


def test_the_admin_token_and_api_tokens_are_told_apart() -> None:
    """Each kind is checked against its own hashes, and an overlong bearer against none."""
    disk, clock = FakeDisk(), FakeClock(source=lambda: 0.0)
    tokens = ApiTokens(disk)
    now = clock.unix_ns() // 1_000_000_000
    text, _ = made(tokens, now=now)
    admin = AdminTokens([hashlib.sha256(b"frysadmin.x").digest()])
    access = ApiAccess(admin, tokens, clock)
    assert access.authenticate("frysadmin.x") is ADMIN
    shown = access.authenticate(text)
    assert shown is not None
    assert (shown.role, access.is_valid(shown), access.is_valid(ADMIN)) == (Level.READ, True, True)
    assert [access.authenticate(bad) for bad in ("", "frysadmin.y", "x" * 1_000, "é" * 40)] == [None] * 4
    assert access.is_told
    assert not ApiAccess(admin, ApiTokens(FakeDisk()), clock).is_told
