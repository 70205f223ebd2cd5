"""Join tokens: what a new node shows to be let in, and the issuer's table of them.

Sans-I/O. Two forms:

- ``frys1.<cluster>.<ca hash>.<id>.<secret><checksum>``: made by the issuer; pins the hash of the authority's public
  key, so that the joiner knows whom it talks to. 256-bit secret and 32-bit checksum over the whole text, base32.
- ``frys0.<secret>``: made before the cluster exists (a Kubernetes Secret); does not expire and pins nothing, so the
  issuer proves itself with the same secret (design, fine print 9).

The secret never crosses the wire: both sides prove that they know it by an HMAC over the TLS exporter, which also
makes a relayed proof worthless. The issuer keeps only a key derived from it. Every refusal names the fix.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final, NamedTuple

import msgspec

from frys_node.base.errors import CorruptData, NotFound, Overloaded, UsageError
from frys_node.base.types import NodeId
from frys_node.secure.errors import InvalidToken, TokenExpired, TokenRevoked, TokenUnknown, TokenUsedUp, TooManyFailures

SECRET_BYTES: Final = 32
TOKENS_MAX = 1_000
"""Rows of the issuer's table, the expired ones of the last day included."""

REVOKED_MAX = 1_000
"""Revoked pre-made tokens that are remembered; of more the one that was revoked first is forgotten."""

FAILURES_PER_MINUTE = 10
"""Wrong proofs from one address before it has to wait."""

FAILURE_ADDRESSES_MAX = 4_096
REMEMBER_EXPIRED_S = 86_400
TTL_S_MAX = 10 * 365 * 86_400
CREATE_HINT = "run on the issuer: frys-node token create"

_CHECK_CHARS = 7
_TOKEN = re.compile(r"frys1\.([a-z0-9-]{1,48})\.([0-9a-f]{32})\.([0-9a-f]{8})\.([a-z2-7]{52})([a-z2-7]{7})")
_PREMADE = re.compile(r"frys0\.([A-Za-z0-9_-]{26,128})")


class JoinToken(NamedTuple):
    """A token, read. `cluster` and `ca_hash` are None in pre-made ones."""

    id: str
    secret: bytes
    cluster: str | None
    ca_hash: str | None

    @property
    def key(self) -> bytes:
        """What both sides prove to know."""
        return derive_key(self.secret)


def derive_key(secret: bytes) -> bytes:
    """Return the 48-byte proof key of a secret; the issuer stores this, never the secret."""
    return hmac.digest(b"frys join token v1", secret, "sha384")


def proof(key: bytes, side: bytes, exporter: bytes) -> bytes:
    """Return the HMAC by which a side (``b"c"`` the joiner, ``b"s"`` the issuer) proves the key on one connection."""
    return hmac.digest(key, side + exporter, "sha384")


def proofs_match(left: bytes, right: bytes) -> bool:
    """Compare two proofs in constant time."""
    return hmac.compare_digest(left, right)


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _checksum(text: str) -> str:
    return _base32(hashlib.sha256(text.encode()).digest()[:4])[:_CHECK_CHARS]


def format_token(cluster: str, ca_hash: str, token_id: str, secret: bytes) -> str:
    """Return the text of a token."""
    text = f"frys1.{cluster}.{ca_hash}.{token_id}.{_base32(secret)}"
    return text + _checksum(text)


def parse_token(text: str) -> JoinToken:
    """Read a token of either form; blanks around it are ignored.

    Raises:
        InvalidToken: It is cut off, mistyped or something else. The message never repeats the secret.
    """
    text = text.strip()
    premade = _PREMADE.fullmatch(text)
    if premade is not None:
        secret = premade[1].encode()
        return JoinToken(hashlib.sha256(b"frys0 id" + secret).hexdigest()[:8], secret, None, None)
    if text.startswith("frys0."):
        raise InvalidToken("a pre-made token needs 26 to 128 letters, digits, '-' or '_' after 'frys0.'")
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise InvalidToken(
            f"this is not a whole join token ({len(text)} characters)", hint=f"copy it again, or {CREATE_HINT}"
        )
    if match[5] != _checksum(text[:-_CHECK_CHARS]):
        raise InvalidToken("the join token's checksum does not match: it was mistyped", hint="copy it again")
    try:
        secret = base64.b32decode(match[4].upper() + "====")
    except ValueError as error:
        raise InvalidToken("the join token's secret is not base32", hint="copy it again") from error
    return JoinToken(match[3], secret, match[1], match[2])


class TokenRow(msgspec.Struct, kw_only=True):
    """One token in the issuer's table. `uses_left` None means any number of times, `expires_unix_s` None never."""

    id: str
    key: bytes
    role: str
    created_unix_s: int
    expires_unix_s: int | None
    uses_left: int | None
    used_by: list[str] = []


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is listed: without its secret."""

    id: str
    role: str
    created_at: int
    expires_at: int | None
    uses_left: int | None
    used: int
    state: str
    """``valid``, ``expired`` or ``used``."""
    kind: str = "join"
    """``join``, or ``api``: a bearer for HTTP and Redis clients."""
    collections: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    made_through: str = ""
    """Id of the node that asked for an API token; empty if that is not known."""
    last_used_at: int | None = None
    """Unix seconds, to the minute, of an API token; None if none of the nodes that were asked has seen it."""


class _StoredTable(msgspec.Struct, frozen=True):
    version: int
    tokens: list[TokenRow]
    revoked: list[str] = []


class TokenTable:
    """The issuer's side: makes, checks and uses up tokens. The caller persists `encode()` after each change."""

    __slots__ = ("_ca_hash", "_cluster", "_failures", "_revoked", "_rows")

    def __init__(self, cluster: str, ca_hash: str) -> None:
        self._cluster = cluster
        self._ca_hash = ca_hash
        self._rows: dict[str, TokenRow] = {}
        self._revoked: list[str] = []
        """Hashes of revoked pre-made tokens: whoever was given one offers it again at each start."""
        self._failures: dict[str, tuple[float, float]] = {}

    def create(
        self,
        random_bytes: bytes,
        *,
        ttl_s: float,
        uses: int | None,
        now_unix_s: int,
        role: str = "node",
    ) -> str:
        """Make a token from 36 random bytes and return its text, which is not kept.

        Raises:
            UsageError: Time to live or uses are out of range, or the role is unknown. Nothing was made.
            Overloaded: The table is full. Nothing was made.
        """
        if not 1 <= ttl_s <= TTL_S_MAX:
            raise UsageError(f"a token lives 1 second to 10 years, not {ttl_s} s")
        if uses is not None and not 1 <= uses <= 1_000_000:
            raise UsageError(f"a token is used 1 to 1,000,000 times, not {uses}")
        if role != "node":
            raise UsageError(f"there is no role '{role}'", hint="the only role is: node")
        if len(random_bytes) != SECRET_BYTES + 4:
            raise UsageError(f"a token is made of {SECRET_BYTES + 4} random bytes, not {len(random_bytes)}")
        self._forget(now_unix_s)
        if len(self._rows) >= TOKENS_MAX:
            raise Overloaded(f"there are {TOKENS_MAX} tokens already", hint="frys-node token revoke ID")
        secret, token_id = random_bytes[:SECRET_BYTES], random_bytes[SECRET_BYTES:].hex()
        self._rows[token_id] = TokenRow(
            id=token_id,
            key=derive_key(secret),
            role=role,
            created_unix_s=now_unix_s,
            expires_unix_s=now_unix_s + int(ttl_s),
            uses_left=uses,
        )
        return format_token(self._cluster, self._ca_hash, token_id, secret)

    def add_premade(self, text: str, now_unix_s: int) -> str:
        """Accept a pre-made ``frys0`` token and return its id; adding it again changes nothing.

        Raises:
            InvalidToken: It is none, or a damaged one. Nothing was changed.
            TokenRevoked: It was revoked; it stays so for good. Nothing was changed.
        """
        token = parse_token(text)
        if token.ca_hash is not None:
            raise InvalidToken("only tokens that begin with 'frys0.' can be made before the cluster")
        if _hash_of(token.key) in self._revoked:
            raise TokenRevoked(f"the pre-made join token {token.id} was revoked")
        if token.id not in self._rows:
            self._rows[token.id] = TokenRow(
                id=token.id, key=token.key, role="node", created_unix_s=now_unix_s, expires_unix_s=None, uses_left=None
            )
        return token.id

    def revoke(self, token_id: str) -> None:
        """Forget a token; of a pre-made one the hash is kept, so that it is never accepted again.

        Raises:
            NotFound: There is none with that id. Nothing was changed.
        """
        row = self._rows.pop(token_id, None)
        if row is None:
            raise NotFound(f"there is no token with the id '{token_id}'", hint="frys-node token list")
        if row.expires_unix_s is None:
            self._revoked = [*self._revoked, _hash_of(row.key)][-REVOKED_MAX:]

    def drop_pinned(self) -> None:
        """Forget every token that pins an authority, for another one has followed it; pre-made tokens pin none."""
        self._rows = {token_id: row for token_id, row in self._rows.items() if row.expires_unix_s is None}

    def list(self, now_unix_s: int) -> list[TokenInfo]:
        """Every token of the table, oldest first, without secrets."""
        return [
            TokenInfo(
                id=row.id,
                role=row.role,
                created_at=row.created_unix_s,
                expires_at=row.expires_unix_s,
                uses_left=row.uses_left,
                used=len(row.used_by),
                state=_state(row, now_unix_s),
            )
            for row in sorted(self._rows.values(), key=lambda row: (row.created_unix_s, row.id))
        ]

    def check(
        self, token_id: str, shown: bytes, exporter: bytes, *, node: NodeId, host: str, now_unix_s: int, now_s: float
    ) -> TokenRow:
        """Check a joiner's proof and return the token's row. Nothing is used up yet: see `use`.

        Args:
            token_id: Which token the joiner claims to know.
            shown: Its proof over the exporter.
            exporter: Keying material of this connection.
            node: Who asks; a node that used the token already may ask again (its reply may have been lost).
            host: Where it asks from, for the limit on failures.
            now_unix_s: Wall time in seconds, for the token's life.
            now_s: Monotonic seconds, for the limit.

        Raises:
            TooManyFailures: Too many wrong proofs came from this address.
            TokenUnknown: No such token, or the proof is wrong.
            TokenExpired, TokenUsedUp: It was good once.
        """
        if self._tokens_of_patience(host, now_s) < 1.0:
            raise TooManyFailures("too many wrong join tokens came from this address", hint="wait a minute")
        row = self._rows.get(token_id)
        # The same work is done for an unknown id, so that its absence cannot be timed.
        right = proof(row.key if row is not None else bytes(48), b"c", exporter)
        if not hmac.compare_digest(right, shown) or row is None:
            self._failures[host] = (self._tokens_of_patience(host, now_s) - 1.0, now_s)
            raise TokenUnknown(
                "this cluster's issuer does not know the join token (revoked, or mistyped)", hint=CREATE_HINT
            )
        if row.expires_unix_s is not None and now_unix_s >= row.expires_unix_s:
            minutes = (now_unix_s - row.expires_unix_s) // 60
            raise TokenExpired(f"the join token expired {minutes} min ago", hint=CREATE_HINT)
        if row.uses_left == 0 and node not in row.used_by:
            raise TokenUsedUp(
                f"the join token has been used {len(row.used_by)} times, as often as it may", hint=CREATE_HINT
            )
        return row

    def use(self, row: TokenRow, node: NodeId) -> None:
        """Use the token up once for a node; a second time for the same node is free."""
        if node in row.used_by:
            return
        if row.uses_left is not None:
            row.uses_left -= 1
        row.used_by = [*row.used_by[-999:], node]

    def encode(self) -> bytes:
        """Return the table's bytes for the disk."""
        rows = sorted(self._rows.values(), key=lambda row: row.id)
        return msgspec.json.encode(_StoredTable(1, rows, self._revoked))

    def restore(self, data: bytes) -> None:
        """Take the rows of `encode`.

        Raises:
            CorruptData: The bytes are damaged. The table is unchanged.
        """
        try:
            stored = msgspec.json.decode(data, type=_StoredTable)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptData(f"the token table is damaged: {error}", hint="remove it and create new tokens") from error
        self._rows = {row.id: row for row in stored.tokens}
        self._revoked = stored.revoked

    def _forget(self, now_unix_s: int) -> None:
        horizon = now_unix_s - REMEMBER_EXPIRED_S
        self._rows = {
            token_id: row
            for token_id, row in self._rows.items()
            if row.expires_unix_s is None or row.expires_unix_s > horizon
        }

    def _tokens_of_patience(self, host: str, now_s: float) -> float:
        """How many more failures an address has, refilled evenly over a minute."""
        if len(self._failures) > FAILURE_ADDRESSES_MAX:
            self._failures.pop(next(iter(self._failures)))
        left, since_s = self._failures.get(host, (float(FAILURES_PER_MINUTE), now_s))
        left = min(float(FAILURES_PER_MINUTE), left + (now_s - since_s) * FAILURES_PER_MINUTE / 60.0)
        if left >= FAILURES_PER_MINUTE:
            self._failures.pop(host, None)
        return left


def _hash_of(key: bytes) -> str:
    """Return what is kept of a pre-made token that was revoked."""
    return hashlib.sha256(b"frys0 revoked" + key).hexdigest()


def _state(row: TokenRow, now_unix_s: int) -> str:
    if row.expires_unix_s is not None and now_unix_s >= row.expires_unix_s:
        return "expired"
    return "used" if row.uses_left == 0 else "valid"
