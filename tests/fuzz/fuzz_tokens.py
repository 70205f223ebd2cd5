"""Tokens under fuzz: what people paste, joiners show and clients send, and what is stored of them and told."""

from __future__ import annotations

import msgspec
from fuzz_machine import check

from frys_node.base.access import Kind, Level, Need
from frys_node.base.errors import CorruptData, MalformedFrame, Overloaded, SecurityError
from frys_node.base.types import NodeId
from frys_node.plugins.network.access import authorise
from frys_node.plugins.network.errors import CrossSite, Unauthorised
from frys_node.secure.admin import AdminTokens
from frys_node.secure.api_tokens import API_TOKENS_PATH, ApiAccess, ApiTokens, Grant, Version
from frys_node.secure.errors import InvalidToken
from frys_node.secure.token import TokenTable, format_token, parse_token, proof
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.trust.api_tokens import TELL_TOKENS, HeldTokens, TellTokens

NODE = NodeId("0a" * 16)
CLUSTER, CA_HASH = "prod", "c" * 32
EXPORTER = b"e" * 32


class TokenHarness:
    """The first byte says what the rest is: a token's text, a joiner's id and proof, or a table."""

    TEXT, SHOWN, TABLE = range(3)

    def __init__(self) -> None:
        table = self._table()
        self._text = table.create(bytes(range(36)), ttl_s=3_600, uses=1, now_unix_s=1_000)
        self._stored = table.encode()

    @staticmethod
    def _table() -> TokenTable:
        return TokenTable(CLUSTER, CA_HASH)

    def seeds(self) -> list[bytes]:
        """A token of each form, a good proof, and a table."""
        token = parse_token(self._text)
        shown = token.id.encode() + proof(token.key, b"c", EXPORTER)
        premade = b"frys0." + b"abcdefgh" * 5
        return [
            bytes([self.TEXT]) + self._text.encode(),
            bytes([self.TEXT]) + premade,
            bytes([self.SHOWN]) + shown,
            bytes([self.TABLE]) + self._stored,
        ]

    def run(self, data: bytes) -> None:
        """Read one; a refusal has its own error, and no other token or proof than the right one is taken."""
        kind, body = (data[0] % 3 if data else 0), data[1:]
        if kind == self.TEXT:
            self._parse(body)
        elif kind == self.SHOWN:
            self._show(body)
        else:
            self._restore(body)

    @staticmethod
    def _parse(body: bytes) -> None:
        text = body.decode("utf-8", "replace")
        try:
            token = parse_token(text)
        except InvalidToken as error:
            secret = text.strip().rpartition(".")[2]
            check(len(secret) < 20 or secret not in f"{error.message} {error.hint}", "the error repeats the secret")
            return
        if token.ca_hash is not None:
            assert token.cluster is not None
            again = format_token(token.cluster, token.ca_hash, token.id, token.secret)
            # The last letter of a secret has two bits that mean nothing; the checksum still covers them.
            check(parse_token(again) == token, "a token is read otherwise than written")
        check(token.key != token.secret, "the secret is what is stored")

    def _show(self, body: bytes) -> None:
        token = parse_token(self._text)
        right = token.id.encode() + proof(token.key, b"c", EXPORTER)
        table = self._table()
        table.restore(self._stored)
        try:
            table.check(
                body[:8].decode("utf-8", "replace"),
                body[8:],
                EXPORTER,
                node=NODE,
                host="10.0.0.9",
                now_unix_s=1_001,
                now_s=1.0,
            )
        except SecurityError:
            check(body != right, "the right proof is refused")
            return
        check(body == right, "another proof is taken")

    def _restore(self, body: bytes) -> None:
        table = self._table()
        try:
            table.restore(body)
        except CorruptData:
            check(table.list(1_000) == [], "a damaged table is half taken")
            return
        again = self._table()
        again.restore(table.encode())
        check(again.encode() == table.encode(), "a table is read otherwise than written")
        table.list(1_000)


class BearerHarness:
    """The first byte says what the rest is: a bearer, headers, a stored sheet, an issuer's word, or a member's."""

    BEARER, HEADERS, STORED, TOLD, HELD = range(5)

    def __init__(self) -> None:
        self._clock = FakeClock(source=lambda: 0.0)
        self._now = self._clock.unix_ns() // 1_000_000_000
        tokens = self._tokens()
        self._sheet = tokens.sheet
        self._stored = tokens._disk.read(API_TOKENS_PATH) or b""

    def _tokens(self) -> ApiTokens:
        """A sheet with two tokens, and one that was revoked."""
        tokens = ApiTokens(FakeDisk())
        grants = (Grant(role="write", collections=("docs",)), Grant(role="read"), Grant(role="admin"))
        self._texts = []
        for number, grant in enumerate(grants):
            text, info = tokens.create(bytes(range(number, number + 36)), grant, now_unix_s=self._now, term=1)
            self._texts.append(text)
        tokens.revoke(info.id, term=1)
        return tokens

    def seeds(self) -> list[bytes]:
        """A bearer that stands, the revoked one, headers of both kinds, and each message."""
        first, second, revoked = (text.encode() for text in self._texts)
        held = HeldTokens(1, 9, (self._sheet.tokens[0].id,), self._sheet.digest)
        return [
            bytes([self.BEARER]) + first,
            bytes([self.BEARER]) + revoked,
            bytes([self.HEADERS]) + b"Bearer " + first + b"\0" + second,
            bytes([self.HEADERS]) + b"bearer  " + second + b"\0",
            bytes([self.STORED]) + self._stored,
            bytes([self.TOLD]) + TELL_TOKENS.request.encode(TellTokens(self._sheet)),
            bytes([self.HELD]) + TELL_TOKENS.reply.encode(held),
        ]

    def run(self, data: bytes) -> None:
        """Read one: nobody is let in but by the exact text, and no sheet of one's own becomes unreadable."""
        kind, body = (data[0] % 5 if data else 0), data[1:]
        reader = (self._show, self._ask, self._restore, self._take, self._hear)[kind]
        reader(body)

    def _show(self, body: bytes) -> None:
        text = body.decode("utf-8", "replace")
        who = ApiAccess(AdminTokens([]), self._tokens(), self._clock).authenticate(text)
        right = text in self._texts[:2]
        check((who is not None) is right, "a bearer that is not the exact text is somebody's, or the text nobody's")
        check(who is None or who.token_id in text, "a bearer is another token's")

    def _ask(self, body: bytes) -> None:
        authorization, _, key = body.decode("latin-1").partition("\0")
        headers = {"host": "x"} | {
            name: value for name, value in (("authorization", authorization), ("api-key", key)) if value
        }
        access = ApiAccess(AdminTokens([]), self._tokens(), self._clock)
        try:
            authorise(Kind.TOKEN, Need(Level.READ), headers, access)
        except (Unauthorised, CrossSite, SecurityError):
            return
        shown = {authorization.partition(" ")[2].strip(), key.strip()} - {""}
        check(len(shown) == 1 and shown <= set(self._texts[:2]), "somebody is let in without a token, or by two")

    def _restore(self, body: bytes) -> None:
        disk = FakeDisk()
        disk.write(API_TOKENS_PATH, body)
        try:
            tokens = ApiTokens(disk)
        except CorruptData:
            return
        self._go_on(tokens, disk)

    def _take(self, body: bytes) -> None:
        try:
            told = TELL_TOKENS.request.decode(body)
        except MalformedFrame:
            return
        disk = FakeDisk()
        tokens = ApiTokens(disk)
        tokens.take(msgspec.structs.replace(self._sheet, term=0, seq=1))
        tokens.take(told.sheet, self._now)
        gone = [mark.id for mark in self._sheet.revoked if mark.expires_unix_s > self._now]
        check(not any(tokens.has(token_id) for token_id in gone), "a sheet brought a revoked token back")
        self._go_on(tokens, disk)

    def _hear(self, body: bytes) -> None:
        try:
            held = TELL_TOKENS.reply.decode(body)
        except MalformedFrame:
            return
        disk = FakeDisk()
        tokens = ApiTokens(disk)
        tokens.take(self._sheet)
        before = {row.id for row in tokens.sheet.tokens}
        tokens.bury(held.revoked, term=1)
        try:
            tokens.outrun(Version(held.term, held.seq), term=1)
        except SecurityError:
            check((held.term, held.seq) > tokens.sheet.version, "an honest member is called a liar")
        check({row.id for row in tokens.sheet.tokens} <= before, "a member added a token")
        self._go_on(tokens, disk)

    @staticmethod
    def _go_on(tokens: ApiTokens, disk: FakeDisk) -> None:
        """What is in force can be written on, and be read again."""
        try:
            tokens.create(bytes(36), Grant(role="read"), now_unix_s=1_000, term=1)
        except Overloaded:
            return
        check(ApiTokens(disk).sheet == tokens.sheet, "a sheet is read otherwise than written")
