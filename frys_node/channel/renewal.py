"""Renewal of node certificates: long before its own expires, each node asks the issuer for another over ``frys/1``.

The key and the names stay; only the certificate's life is new. Connections that stand keep the old one, new ones use
the new. While the issuer is down renewals wait: there are months, and a week of grace after them.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.ports import Clock, Disk
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method
from frys_node.secure import certificates
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.identity import Identity, save_identity
from frys_node.wire.codec import Message

log = logging.getLogger(__name__)

LOOK_EVERY_S = 12 * 3_600.0
RETRY_S = 600.0
RENEW_BEFORE_S: Final = certificates.NODE_LIFE_DAYS * 86_400 / 3
"""A certificate with less life left is renewed."""


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
    ) -> None:
        self._identity = identity
        self._disk = disk
        self._clock = clock
        self._name_of = name_of
        self._ask = ask
        self._on_renewed = on_renewed

    async def answer(self, caller: NodeId, request: RenewRequest) -> Renewed:
        """Issue another certificate to an authenticated member, for the key and names it has.

        Raises:
            NotReady: This node is not the issuer.
            InvalidCertificate: The signing request is malformed, or made with another node's key.
        """
        await trio.lowlevel.checkpoint()
        identity = self._identity
        if identity.ca_key is None:
            raise NotReady("this node is not the issuer")
        key = certificates.read_request(request.signing_request, identity.kind)
        name = self._name_of(caller)
        if certificates.node_id_of(key) != caller:
            raise InvalidCertificate("the signing request is not made with the caller's key")
        subject = certificates.Subject(identity.cluster_id, caller, name)
        certificate = certificates.issue(
            identity.ca_key, identity.ca_certificate, key, subject=subject, unix_ns=self._clock.unix_ns()
        )
        return Renewed(certificates.der(certificate))

    async def run(self) -> None:
        """Look twice a day; try again sooner when a renewal failed."""
        while True:
            wait_s = LOOK_EVERY_S
            if self.left_s() < RENEW_BEFORE_S:
                try:
                    await self.renew()
                except FrysError as error:
                    wait_s = RETRY_S
                    log.warning("channel.certificate_not_renewed", extra={"error": error.message})
            await trio.sleep(wait_s)

    def left_s(self) -> float:
        """Seconds until the certificate expires by this node's wall clock."""
        end = self._identity.certificate.not_valid_after_utc
        return (end - dt.datetime.fromtimestamp(self._clock.unix_ns() / 1e9, tz=dt.UTC)).total_seconds()

    async def renew(self) -> None:
        """Get another certificate, check it, and store it before it is used.

        Raises:
            FrysError: The issuer cannot be reached or refused, or the disk did. The old certificate stands.
        """
        identity = self._identity
        renewed = await self._ask(RenewRequest(certificates.create_request(identity.key)))
        certificate = certificates.load_der(renewed.certificate)
        subject = certificates.verify_issued(certificate, identity.ca_certificate, self._clock.unix_ns())
        if subject.node != identity.node_id or certificate.public_key() != identity.key.public_key():
            raise InvalidCertificate("the issuer sent another node's certificate")
        fresh = identity.renewed(certificate)
        save_identity(self._disk, fresh)
        identity.certificate = certificate
        self._on_renewed()
        log.info("channel.certificate_renewed", extra={"expires": certificate.not_valid_after_utc.isoformat()})
