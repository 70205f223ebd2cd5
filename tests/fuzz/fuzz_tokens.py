"""Join tokens under fuzz: what people paste, what joiners show, and the issuer's stored table."""

from __future__ import annotations

from fuzz_machine import check

from frys_node.base.errors import CorruptData, SecurityError
from frys_node.base.types import NodeId
from frys_node.secure.errors import InvalidToken
from frys_node.secure.token import TokenTable, format_token, parse_token, proof

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
