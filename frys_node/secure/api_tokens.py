"""API tokens: bearers with a role and scopes for HTTP and Redis clients, and the sheet of them that members hold.

Sans-I/O. The text is ``frys_<id>_<secret>``: 8 hexadecimal characters to name it by, and 256 random bits in base32. It
is told once; what is kept is its SHA-256, which is enough for 256 random bits. A look-up by an unknown id compares with
a hash that nothing has, so that the time of the answer does not tell which ids there are.

The issuer of the topology record writes the sheet. It carries ``(term, seq)``: a member takes a higher one from the
issuer and no other. A revocation is a row of its own until the token would have expired. Whoever holds it keeps it,
whatever newer sheet comes, and tells an issuer that still has the token: neither a new issuer that missed a revocation
nor one with an old disk brings a token back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from frys_node.base.access import ADMIN, ROLES, SCOPE_CHARS_MAX, SCOPES_MAX, Principal
from frys_node.base.errors import CorruptData, NotFound, Overloaded, SecurityError, UsageError
from frys_node.base.ports import Clock, Disk
from frys_node.secure.admin import AdminTokens
from frys_node.secure.stored import read_secret

if TYPE_CHECKING:
    from frys_node.secure.token import TokenInfo

API_TOKENS_PATH: Final = "identity/api-tokens"
API_TOKENS_MAX = 1_000
"""Rows of the sheet, the expired ones of the last day included."""
SHEET_BYTES_MAX = 512 * 1024
"""The encoded sheet, which travels in one message."""
SHEET_ROWS_MAX = 5_000
"""Tokens and revocations together. Only new tokens are refused at it: a revocation takes the place of its token."""
SEQ_LEAD_MAX = 1_000_000
"""How many writes a member may have seen that this disk has not; more is made up."""
USE_GRAIN_S = 60
"""How exactly uses are told."""
API_TTL_DEFAULT_S = 30 * 86_400.0
SECRET_BYTES: Final = 32
ID_BYTES: Final = 4
FORMAT: Final = 1
BEARER_CHARS_MAX = 512
"""A longer bearer is nobody's, and is not hashed."""

_BEARER = re.compile(r"frys_([0-9a-f]{8})_[a-z2-7]{52}")
_NOTHING = bytes(32)
"""Compared with for an unknown id; no text is known that has it."""

WHOLE_MAX: Final = 1 << 53
Whole = Annotated[int, msgspec.Meta(ge=0, le=WHOLE_MAX)]


class Version(NamedTuple):
    """The age of a sheet; (0, 0) is one that nobody has told."""

    term: int
    seq: int


class ApiToken(msgspec.Struct, frozen=True, array_like=True):
    """One row. Fields are only ever added at the end."""

    id: str
    digest: bytes
    """SHA-256 of the whole text."""
    role: str
    created_unix_s: int
    expires_unix_s: int
    collections: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    made_through: str = ""
    """The node that asked the issuer for it; empty in rows of before."""

    @property
    def principal(self) -> Principal:
        """Whoever shows the token."""
        return Principal(f"token:{self.id}", self.role, self.collections, self.namespaces, self.id)


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """What is left of a token that was revoked, until it would have expired."""

    id: str
    expires_unix_s: int


class TokenSheet(msgspec.Struct, frozen=True, array_like=True):
    """All API tokens of the cluster, as the issuer wrote them. Travels and is stored in this form."""

    format: int = FORMAT
    term: Whole = 0
    seq: Whole = 0
    tokens: tuple[ApiToken, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    """On a member also what it knew of before the sheet came."""

    @property
    def version(self) -> Version:
        """What a member compares."""
        return Version(self.term, self.seq)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the tokens: two sheets of one version differ if the issuer's disk was an old copy."""
        return hashlib.sha256(msgspec.msgpack.encode(sorted(self.tokens, key=lambda row: row.id))).digest()


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a new token shall be."""

    role: str
    ttl_s: float = API_TTL_DEFAULT_S
    collections: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise a `UsageError` unless a token can be made of it."""
        from frys_node.secure.token import TTL_S_MAX

        if self.role not in ROLES:
            raise UsageError(f"there is no role '{self.role[:40]}'", hint="use node, read, write or admin")
        if not 1 <= self.ttl_s <= TTL_S_MAX:
            raise UsageError(f"a token lives 1 second to 10 years, not {self.ttl_s} s")
        names = (*self.collections, *self.namespaces)
        if self.role == ROLES[-1] and names:
            raise UsageError(
                "an admin token is for the whole cluster", hint="leave --collection and --namespace out, or use write"
            )
        if len(names) > SCOPES_MAX:
            raise UsageError(f"a token names up to {SCOPES_MAX} collections and namespaces, not {len(names)}")
        if any(not 1 <= len(name) <= SCOPE_CHARS_MAX or not name.isprintable() for name in names):
            raise UsageError(f"a collection or namespace has 1 to {SCOPE_CHARS_MAX} printable characters")


class ApiTokens:
    """This node's copy of the sheet."""

    __slots__ = ("_disk", "_rows", "_used_unix_s", "sheet")

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.sheet = TokenSheet()
        self._rows: dict[str, ApiToken] = {}
        self._used_unix_s: dict[str, int] = {}
        stored = read_secret(disk, API_TOKENS_PATH)
        if stored is not None:
            self._use(_decode(stored))

    def _use(self, sheet: TokenSheet) -> None:
        self.sheet = sheet
        self._rows = {row.id: row for row in sheet.tokens}
        self._used_unix_s = {id_: used for id_, used in self._used_unix_s.items() if id_ in self._rows}

    def authenticate(self, bearer: str, now_unix_s: int) -> Principal | None:
        """Return whose the bearer is; None if it is unknown, revoked or expired, which take the same time."""
        match = _BEARER.fullmatch(bearer)
        if match is None:
            return None
        row = self._rows.get(match[1])
        shown = hashlib.sha256(bearer.encode()).digest()
        is_right = hmac.compare_digest(shown, _NOTHING if row is None else row.digest)
        if row is None or not is_right or now_unix_s >= row.expires_unix_s:
            return None
        self._used_unix_s[row.id] = now_unix_s
        return row.principal

    def is_valid(self, principal: Principal, now_unix_s: int) -> bool:
        """True while the token that the principal showed still stands."""
        row = self._rows.get(principal.token_id)
        if row is None or now_unix_s >= row.expires_unix_s or row.principal != principal:
            return False
        self._used_unix_s[row.id] = now_unix_s
        return True

    def uses(self) -> dict[str, int]:
        """Return when tokens were used last since the start, by their ids, in Unix seconds to the minute."""
        return {token_id: used - used % USE_GRAIN_S for token_id, used in self._used_unix_s.items()}

    def has(self, token_id: str) -> bool:
        """True if there is a token of that id."""
        return token_id in self._rows

    def infos(self, now_unix_s: int) -> list[TokenInfo]:
        """Every token without what it could be checked by, oldest first."""
        rows = sorted(self._rows.values(), key=lambda row: (row.created_unix_s, row.id))
        return [_info(row, now_unix_s) for row in rows]

    # On the issuer. Each change is on the disk before it counts.

    def create(
        self, random_bytes: bytes, grant: Grant, *, now_unix_s: int, term: int, made_through: str = ""
    ) -> tuple[str, TokenInfo]:
        """Make a token from 36 random bytes and return its text, which is not kept, with what is known of it.

        `made_through` is the id of the node that asked for it.

        Raises:
            UsageError: See `Grant.check`. Nothing was made.
            Overloaded: There are too many tokens. Nothing was made.
            StorageError: The disk refused. Nothing was made.
        """
        from frys_node.secure.token import REMEMBER_EXPIRED_S

        grant.check()
        if len(random_bytes) != SECRET_BYTES + ID_BYTES:
            raise UsageError(f"a token is made of {SECRET_BYTES + ID_BYTES} random bytes, not {len(random_bytes)}")
        token_id = random_bytes[SECRET_BYTES:].hex()
        if token_id in self._rows:
            raise Overloaded(f"the id {token_id} is taken", hint="try again: it is drawn anew")
        secret = base64.b32encode(random_bytes[:SECRET_BYTES]).decode().rstrip("=").lower()
        text = f"frys_{token_id}_{secret}"
        row = ApiToken(
            token_id,
            hashlib.sha256(text.encode()).digest(),
            str(grant.role),
            now_unix_s,
            now_unix_s + int(grant.ttl_s),
            tuple(sorted(set(grant.collections))),
            tuple(sorted(set(grant.namespaces))),
            made_through,
        )
        horizon = now_unix_s - REMEMBER_EXPIRED_S
        rows = [*(known for known in self.sheet.tokens if known.expires_unix_s > horizon), row]
        revoked = _unexpired(self.sheet.revoked, now_unix_s)
        if len(rows) > API_TOKENS_MAX:
            raise Overloaded(f"there are {API_TOKENS_MAX} API tokens already", hint="frys-node token revoke ID")
        if len(rows) + len(revoked) > SHEET_ROWS_MAX:
            raise Overloaded(
                f"{len(revoked)} tokens were revoked that have not expired yet, and their ids are kept",
                hint="make tokens with a shorter --ttl; the ids go as the tokens would have expired",
            )
        self._write(rows, term, revoked=revoked)
        return text, _info(row, now_unix_s)

    def revoke(self, token_id: str, *, term: int) -> None:
        """Make a token useless.

        Raises:
            NotFound: There is none with that id. Nothing was changed.
            StorageError: The disk refused. Nothing was changed.
        """
        if token_id not in self._rows:
            raise NotFound(f"there is no token with the id '{token_id[:40]}'", hint="frys-node token list")
        self.bury((token_id,), term=term)

    def bury(self, token_ids: Collection[str], *, term: int) -> bool:
        """Revoke those of the tokens that there are, in one write; True if there was one.

        Raises:
            StorageError: The disk refused. Nothing was changed.
        """
        found = [row for row in self.sheet.tokens if row.id in token_ids]
        if found:
            rows = [row for row in self.sheet.tokens if row.id not in token_ids]
            marks = (Revocation(row.id, row.expires_unix_s) for row in found)
            self._write(rows, term, revoked=(*self.sheet.revoked, *marks))
        return bool(found)

    def reign(self, term: int) -> bool:
        """Write the sheet in the name of a term, if it is not yet: nothing of an earlier issuer replaces it then."""
        if self.sheet.term >= term and self.sheet.seq:
            return False
        self._write(self.sheet.tokens, term)
        return True

    def outrun(self, seen: Version, *, term: int) -> None:
        """Write the sheet so that a member takes it which holds as high a one (this node's disk is an old copy).

        Raises:
            SecurityError: No issuer can have written what the member claims to hold. Nothing was changed.
        """
        if seen < self.sheet.version:
            return
        if seen.term > max(term, self.sheet.term) or seen.seq - self.sheet.seq > SEQ_LEAD_MAX:
            raise SecurityError(
                f"a member claims API tokens of term {seen.term}, number {seen.seq}, which no issuer has written",
                hint=f"if it is not hostile: stop it, remove {API_TOKENS_PATH} in its data directory, and start it",
            )
        self._write(self.sheet.tokens, seen.term, seen.seq)

    def _write(
        self,
        rows: Sequence[ApiToken],
        term: int,
        after_seq: int = 0,
        *,
        revoked: Sequence[Revocation] | None = None,
    ) -> None:
        gone = self.sheet.revoked if revoked is None else tuple(revoked)
        term, seq = max(term, self.sheet.term), max(self.sheet.seq, after_seq) + 1
        if max(term, seq) > WHOLE_MAX:
            raise Overloaded(f"no sheet of API tokens comes after term {term}, number {seq}")
        sheet = TokenSheet(FORMAT, term, seq, tuple(rows), gone)
        data = msgspec.msgpack.encode(sheet)
        if len(data) > SHEET_BYTES_MAX:
            raise Overloaded(
                f"the API tokens are over the limit of {SHEET_BYTES_MAX} bytes",
                hint="revoke some, or name fewer scopes",
            )
        self._disk.write(API_TOKENS_PATH, data)
        self._use(sheet)

    # On a member.

    def take(self, sheet: TokenSheet, now_unix_s: int = 0) -> bool:
        """Keep a newer sheet of the issuer, durably, without what this node knows to be revoked; True if it was newer.

        Raises:
            StorageError: The disk refused. The sheet is in force all the same, and comes again after a restart.
        """
        if sheet.format != FORMAT or sheet.version <= self.sheet.version:
            return False
        marks = {mark.id: mark for mark in (*self.sheet.revoked, *sheet.revoked)}
        # Sheets of several issuers may have filled it with what none of them knew: those that end first go first.
        kept = sorted(_unexpired(marks.values(), now_unix_s), key=lambda mark: mark.expires_unix_s)[-SHEET_ROWS_MAX:]
        if len(kept) > len(sheet.revoked) or any(row.id in marks for row in sheet.tokens):
            rows = tuple(row for row in sheet.tokens if row.id not in marks)
            sheet = msgspec.structs.replace(sheet, tokens=rows, revoked=tuple(kept))
        self._use(sheet)
        self._disk.write(API_TOKENS_PATH, msgspec.msgpack.encode(sheet))
        return True

    def unheard_of(self, sheet: TokenSheet) -> tuple[str, ...]:
        """Return the ids of tokens of the sheet that were revoked, as this node knows and whoever wrote it does not."""
        known = {mark.id for mark in self.sheet.revoked}
        return tuple(row.id for row in sheet.tokens if row.id in known)


def _unexpired(marks: Iterable[Revocation], now_unix_s: int) -> tuple[Revocation, ...]:
    """Return the revocations of tokens that could be valid still, by a clock that is up to a day behind."""
    from frys_node.secure.token import REMEMBER_EXPIRED_S

    return tuple(mark for mark in marks if mark.expires_unix_s > now_unix_s - REMEMBER_EXPIRED_S)


class ApiAccess:
    """Whose a bearer is: the admin token's, or an API token's. Implements `Access`."""

    __slots__ = ("_admin", "_clock", "_tokens")

    def __init__(self, admin: AdminTokens, tokens: ApiTokens, clock: Clock) -> None:
        self._admin = admin
        self._tokens = tokens
        self._clock = clock

    @property
    def is_told(self) -> bool:
        """False while this node has never had a sheet."""
        return self._tokens.sheet.seq > 0

    def authenticate(self, bearer: str) -> Principal | None:
        """See `Access`."""
        if len(bearer) > BEARER_CHARS_MAX:
            return None
        if _BEARER.fullmatch(bearer):
            return self._tokens.authenticate(bearer, self._now_unix_s())
        return ADMIN if self._admin.check(bearer) else None

    def is_valid(self, principal: Principal) -> bool:
        """See `Access`."""
        return not principal.token_id or self._tokens.is_valid(principal, self._now_unix_s())

    def _now_unix_s(self) -> int:
        return self._clock.unix_ns() // 1_000_000_000


def _decode(data: bytes) -> TokenSheet:
    try:
        return msgspec.msgpack.decode(data, type=TokenSheet)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(
            f"{API_TOKENS_PATH} is damaged: {error}",
            hint="remove it: a member gets it again from the issuer; on the issuer the tokens have to be made anew",
        ) from error


def _info(row: ApiToken, now_unix_s: int) -> TokenInfo:
    # Imported when tokens are made or shown: a node that starts only looks them up.
    from frys_node.secure.token import TokenInfo

    return TokenInfo(
        id=row.id,
        role=row.role,
        created_at=row.created_unix_s,
        expires_at=row.expires_unix_s,
        uses_left=None,
        used=0,
        state="expired" if now_unix_s >= row.expires_unix_s else "valid",
        kind="api",
        collections=row.collections,
        namespaces=row.namespaces,
        made_through=row.made_through,
    )
