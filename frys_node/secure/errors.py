"""Errors of identity, tokens and the handshake; each message names the fix."""

from __future__ import annotations

from typing import ClassVar

from frys_node.base.errors import SecurityError


class HandshakeRefused(SecurityError):
    """The TLS handshake or the gate behind it refused the other side. Nothing was exchanged."""

    code = "security.handshake"

    def __init__(self, reason: str, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or f"the handshake was refused: {reason}", hint=hint)
        self.reason = reason
        """Metric label of `frys_channel_refused_total`."""


class HoldsAuthority(SecurityError):
    """The node that was to be expelled was given the authority's key. Nothing was done."""

    code = "security.holds_authority"
    FIX: ClassVar[str] = "run it with --holds-authority, and then at once: frys-node ca rotate"


class NoAuthority(SecurityError):
    """The issuer does not hold the key of the cluster's authority: no node can join. Nothing was changed."""

    code = "security.no_authority"
    FIX: ClassVar[str] = (
        "start a member that holds it, the old issuer or a standby, and on the issuer: frys-node issuer handover NODE"
    )


class Expelled(SecurityError):
    """The node is no member of the cluster any more. Nothing was sent."""

    code = "security.expelled"

    FIX: ClassVar[str] = "it cannot come back: move its data directory away, and join as a new node with a new token"


class NotAdmitted(SecurityError):
    """The node was never admitted by this cluster's issuer, or has left. Nothing was issued; it was told no key."""

    code = "security.not_admitted"

    FIX: ClassVar[str] = "join as a new node: move its data directory away, then frys-node join with a token"


class Unconfirmed(NotAdmitted):
    """A topology record alone says that the node is a member. Nothing was issued; an operator decides."""

    code = "security.unconfirmed"

    FIX: ClassVar[str] = (
        "on the issuer, if it is yours: frys-node node admit ID; if nobody let it in: frys-node node revoke ID"
    )


class TrustLost(SecurityError):
    """The cluster's authority was replaced more often than this node can follow. Nothing was exchanged."""

    code = "security.trust_lost"

    FIX: ClassVar[str] = (
        "move its data directory away, join as a new node with a new token, and take the old one off the ring:"
        " frys-node node remove"
    )


class NotTls(SecurityError):
    """The other side does not speak TLS. Nothing was exchanged."""

    code = "security.not_tls"


class ClassicalOnly(SecurityError):
    """The other side cannot do the hybrid post-quantum key exchange of TLS 1.3. Nothing was exchanged."""

    code = "security.classical_only"


class ForeignCluster(SecurityError):
    """A certificate authority that is not this cluster's. Nothing was exchanged."""

    code = "security.foreign_ca"


class WrongCluster(SecurityError):
    """The node belongs to another cluster than the one named. Nothing was changed."""

    code = "security.wrong_cluster"
    status = 409


class InvalidToken(SecurityError):
    """The text is not a join token, or its checksum does not match. Nothing was sent."""

    code = "security.token_invalid"
    status = 400


class TokenUnknown(SecurityError):
    """The issuer does not know the token, or the proof over it is wrong. Nothing was issued."""

    code = "security.token_unknown"


class TokenExpired(SecurityError):
    """The token's time is over. Nothing was issued."""

    code = "security.token_expired"


class TokenUsedUp(SecurityError):
    """The token was used as often as it may. Nothing was issued."""

    code = "security.token_used_up"


class TokenRevoked(SecurityError):
    """The pre-made token was revoked here, and stays so. It was not accepted again."""

    code = "security.token_revoked"


class TooManyFailures(SecurityError):
    """Too many wrong tokens came from this address. Nothing was checked; wait a minute."""

    code = "security.rate_limited"
    retryable = True
    status = 429


class TokenMissing(SecurityError):
    """No join token was found in any of the places where one is looked for. Nothing was sent."""

    code = "security.token_missing"


class NameTaken(SecurityError):
    """The chosen node name belongs to another node that has not left. Nothing was issued."""

    code = "security.name_taken"
    status = 409


class InvalidCertificate(SecurityError):
    """A certificate or signing request is malformed or does not say what it must. It was not used."""

    code = "security.certificate"


class UnsafePermissions(SecurityError):
    """A file with secrets can be read by others, or belongs to another user. It was not used."""

    code = "security.permissions"


class CryptographyTooOld(SecurityError):
    """The installed `cryptography` lacks an algorithm that this node needs. Nothing was started."""

    code = "security.cryptography"


class WrongIdentityKind(SecurityError):
    """The kind of identity asked for is not the cluster's, which was settled when it was made. Nothing was changed."""

    code = "security.identity_kind"
    status = 409


class CounterExhausted(SecurityError):
    """This start of the node has sealed as many packets as its key allows. Restart the node or rotate the keys."""

    code = "security.counter_exhausted"
    status = 503


class InvalidRecipient(SecurityError):
    """The text is not a recipient of sealed files, or was changed on its way. Nothing was sealed."""

    code = "security.recipient"
    status = 400


class InvalidSealKey(SecurityError):
    """The text is not a key for sealed files, or was changed on its way. Nothing was opened."""

    code = "security.seal_key"
    status = 400


class NotSealed(SecurityError):
    """The file is not a sealed one. Nothing of it was used."""

    code = "security.not_sealed"
    status = 400


class SealedFormat(SecurityError):
    """The sealed file has a format that this version does not know. Nothing of it was used."""

    code = "security.sealed_format"
    status = 400


class SealedKey(SecurityError):
    """The sealed file is for other recipients. Nothing of it was read."""

    code = "security.sealed_key"


class SealedDamaged(SecurityError):
    """Something in the sealed file was changed, left out, repeated, moved or appended. Nothing was made visible."""

    code = "security.sealed_damaged"
    status = 400


class SealedCut(SecurityError):
    """The sealed file ends before its end. Nothing was made visible."""

    code = "security.sealed_cut"
    status = 400


class KemError(SecurityError):
    """A key, ciphertext or provider of the key encapsulation is unusable. Nothing was derived."""

    code = "security.kem"
