"""Renewal of node certificates: long before its own expires, each node asks the issuer for another over ``frys/1``.

The key and the names stay; only the certificate's life is new. Connections that stand keep the old one, new ones use
the new, so no request notices. While the issuer is down renewals wait: there are months, and a week of grace after
them, in which whoever is met with an expired certificate is named in the log and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container

import trio

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.log_limit import LogLimit
from frys_node.base.ports import Clock, Disk
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Metrics
from frys_node.secure import certificates
from frys_node.secure.errors import Expelled, InvalidCertificate, NotAdmitted, Unconfirmed
from frys_node.secure.gate import Peer
from frys_node.secure.identity import Identity, save_identity
from frys_node.secure.trust import issuer_of
from frys_node.wire.codec import Message

log = logging.getLogger(__name__)

LOOK_EVERY_S = 12 * 3_600.0
RETRY_S = 600.0
RENEW_FRACTION = 1 / 3
"""A certificate with less than this part of its life left is renewed."""

FIX = "start the issuer, or give its role to a node that holds the authority's key"

AUTHORITY_WARN_S = 365 * 86_400.0
"""The authority's certificate is called old from here on: it bounds the life of all others."""


class RenewRequest(Message, frozen=True, tag=1):
    """A signing request made with the node's key."""

    signing_request: bytes


class Renewed(Message, frozen=True, tag=2):
    """The new certificate, DER."""

    certificate: bytes


RENEW: Method[RenewRequest, Renewed] = Method("channel.renew", RenewRequest, Renewed)


class Renewal:
    """Keeps one identity's certificate fresh, and answers others on the issuer."""

    def __init__(
        self,
        identity: Identity,
        disk: Disk,
        clock: Clock,
        *,
        name_of: Callable[[NodeId], str],
        ask: Callable[[RenewRequest], Awaitable[Renewed]],
        on_renewed: Callable[[], None],
        expelled: Container[NodeId] = (),
    ) -> None:
        """`name_of` returns an admitted node's name, and raises `NotAdmitted` for whoever is none."""
        self._expelled = expelled
        self._identity = identity
        self._disk = disk
        self._clock = clock
        self._name_of = name_of
        self._ask = ask
        self._on_renewed = on_renewed
        self._limit = LogLimit()

    async def answer(self, caller: NodeId, request: RenewRequest) -> Renewed:
        """Issue another certificate to an authenticated member, for the key and names it has.

        Raises:
            NotReady: This node is not the issuer.
            Expelled: The caller is no member any more; its connection is about to end.
            NotAdmitted: The issuer never let the caller in, or it has left: that it can shake hands says no more than
                that somebody signed its certificate, which whoever has a copy of the authority's key can do.
            InvalidCertificate: The signing request is malformed, or made with another node's key.
        """
        await trio.lowlevel.checkpoint()
        if caller in self._expelled:
            raise Expelled("an expelled node's certificate is not renewed", hint=Expelled.FIX)
        identity = self._identity
        if identity.ca_key is None:
            raise NotReady("this node is not the issuer")
        key = certificates.read_request(request.signing_request, identity.kind)
        if certificates.node_id_of(key) != caller:
            raise InvalidCertificate("the signing request is not made with the caller's key")
        subject = certificates.Subject(identity.cluster_id, caller, self._admitted(caller))
        certificate = certificates.issue(
            identity.ca_key, identity.ca_certificate, key, subject=subject, unix_ns=self._clock.unix_ns()
        )
        return Renewed(certificates.der(certificate))

    def _admitted(self, caller: NodeId) -> str:
        try:
            return self._name_of(caller)
        except NotAdmitted as error:
            skipped = self._limit.take("admitted", trio.current_time())
            if skipped is not None:
                fix = f"if nobody let it in: frys-node node revoke {caller}, and frys-node ca rotate"
                if isinstance(error, Unconfirmed):
                    fix += f"; if it is yours: frys-node node admit {caller}"
                extra = {"peer": caller, "error": error.message, "skipped": skipped, "fix": fix}
                log.error("channel.renewal_refused", extra=extra)
            raise

    async def run(self) -> None:
        """Look twice a day; try again sooner when a renewal failed."""
        while True:
            wait_s = LOOK_EVERY_S
            if self.is_due():
                try:
                    await self.renew()
                except FrysError as error:
                    wait_s = RETRY_S
                    self._complain(error)
            await trio.sleep(wait_s)

    def is_due(self) -> bool:
        """True if less than a third of the certificate's life is left."""
        return self.left_s() < RENEW_FRACTION * certificates.life_s(self._identity.certificate)

    def _complain(self, error: FrysError) -> None:
        """Say that there is no new certificate; an error that a person must see once the old one has expired."""
        left_s = self.left_s()
        extra = {"error": error.message, "left_s": round(left_s), "fix": error.hint or FIX}
        if left_s >= 0:
            log.warning("channel.certificate_not_renewed", extra=extra)
        else:
            until_s = round(left_s + certificates.EXPIRY_GRACE_S)
            log.error("channel.certificate_expired", extra=extra | {"accepted_for_s": until_s, "fix": FIX})

    def left_s(self) -> float:
        """Seconds until the certificate expires by this node's wall clock."""
        return certificates.left_s(self._identity.certificate, self._clock.unix_ns())

    async def renew(self) -> None:
        """Get another certificate, check it, and store it before it is used.

        One of the same authority that ends before the present one is refused: the issuer's clock is wrong.

        Raises:
            FrysError: The issuer cannot be reached or refused, or the disk did. The old certificate stands.
        """
        identity = self._identity
        renewed = await self._ask(RenewRequest(certificates.create_request(identity.key)))
        certificate = certificates.load_der(renewed.certificate)
        subject = certificates.verify_issued(certificate, identity.ca_certificate, self._clock.unix_ns())
        if subject.node != identity.node_id or certificate.public_key() != identity.key.public_key():
            raise InvalidCertificate("the issuer sent another node's certificate")
        ends, present = certificate.not_valid_after_utc, identity.certificate
        is_of_same = issuer_of(present, (identity.ca_certificate,)) is not None
        if is_of_same and ends < present.not_valid_after_utc:
            raise InvalidCertificate(
                f"the new certificate would end before the present one, on {ends:%Y-%m-%d}",
                hint="set the clock of the issuer",
            )
        fresh = identity.renewed(certificate)
        save_identity(self._disk, fresh)
        identity.certificate = certificate
        self._on_renewed()
        log.info("channel.certificate_renewed", extra={"expires": certificate.not_valid_after_utc.isoformat()})


class ExpiryWatch:
    """Makes expiry loud: how long this node's and the authority's certificates last, and who is met after the end."""

    def __init__(self, identity: Identity, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._limit = LogLimit()
        metrics.gauge(
            "frys_channel_certificate_left_seconds",
            "Until this node's certificate expires; negative: it has, and is accepted for 7 days.",
            source=lambda: certificates.left_s(identity.certificate, clock.unix_ns()),
        )
        metrics.gauge(
            "frys_channel_authority_left_seconds",
            "Until the certificate of the cluster's authority expires.",
            source=lambda: certificates.left_s(identity.ca_certificate, clock.unix_ns()),
        )
        self._graced = metrics.counter(
            "frys_channel_grace_total", "Connections to members whose certificate has expired, accepted for 7 days."
        )
        left_s = certificates.left_s(identity.ca_certificate, clock.unix_ns())
        if left_s < AUTHORITY_WARN_S:
            log.warning("channel.authority_is_old", extra={"left_s": round(left_s), "fix": "frys-node ca rotate"})

    def met(self, peer: Peer) -> None:
        """Count and log an accepted member whose certificate has expired."""
        if not peer.is_in_grace:
            return
        self._graced.inc()
        skipped = self._limit.take("grace", trio.current_time())
        if skipped is None:
            return
        over_s = -certificates.left_s(peer.certificate, self._clock.unix_ns())
        log.warning(
            "channel.certificate_in_grace",
            extra={
                "peer": peer.node,
                "peer_name": peer.name,
                "expired_s": round(over_s),
                "refused_in_s": round(certificates.EXPIRY_GRACE_S - over_s),
                "skipped": skipped,
                "fix": "let it reach the issuer, or check its clock",
            },
        )
