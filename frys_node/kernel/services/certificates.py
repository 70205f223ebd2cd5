"""The certificate that this node's HTTP listener shows, issued by the cluster's authority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import trio

from frys_node.kernel.services import ServiceKey


class ServerCertificate(NamedTuple):
    """A certificate with its key. The key is never logged."""

    chain_pem: bytes
    key_pem: bytes
    authority_pem: bytes
    """What clients have to trust."""
    fresh_for_s: float
    """When to ask again, though it may be used for longer."""


class WebCertificates(Protocol):
    """Gets certificates. Provided by `frys_node.channel` through the composition root."""

    async def obtain(self, names: Sequence[str]) -> ServerCertificate:
        """Return a certificate for this node's own names, loopback's, and these; the stored one while it will do.

        Raises:
            FrysError: The issuer cannot be reached, refuses, or does not hold the authority's key. Nothing has changed.
        """
        ...

    @property
    def changed(self) -> trio.Event:
        """Set when the cluster has another authority: get it before `obtain`, and call that again once it is set."""
        ...


WEB_CERTIFICATES: ServiceKey[WebCertificates] = ServiceKey("web_certificates")
