"""A member's side of a change of the authority: it does what the issuer tells it, and comes home after an absence.

A member whose dials end because it does not trust who answers may have been away while one authority followed another.
It then asks those it knows over ``frys-join/1``, where links carry its trust from the old authority to the new one, and
the issuer renews its certificate against a proof of its key. Rule: that works as long as the member's last certificate
lives, and 7 days more; for a node that the issuer still has in its registry of names and that was not expelled; across
`trust.MISSED_MAX` changes. If that is over, every seed that answers says so, and it is this node's `trouble`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio
from cryptography import x509

from frys_node.base.errors import FrysError, SecurityError
from frys_node.base.ports import Disk
from frys_node.base.types import Address, NodeId
from frys_node.secure import certificates
from frys_node.secure.errors import NotAdmitted, TrustLost
from frys_node.secure.identity import Identity, save_identity
from frys_node.secure.trust import RETIRED_MAX, TrustSet, check_change
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.join_messages import JoinRedirect, Returned
from frys_node.trust.rotation import Trust, Trusted, decode_trust, held_by

log = logging.getLogger(__name__)

RETURN_EVERY_S = 15.0
"""Pause between two tries to come home."""
RETRY_FIX = "it is tried again; start the issuer, or open the way to it: frys-node issuer show says who it is"
SEEDS_MAX = 8
"""Members that are asked in one try."""

HomeAnswer = tuple[Returned | JoinRedirect, x509.Certificate]
"""What a member said to one that wants to come home, and the authority's certificate that it showed."""


class TrustKeeper:
    """Keeps what this node trusts."""

    def __init__(
        self,
        identity: Identity,
        disk: Disk,
        *,
        holder: AuthorityHolder,
        renew: Callable[[], Awaitable[None]],
        ask: Callable[[Address], Awaitable[HomeAnswer]],
        addresses: Callable[[], Sequence[Address]],
    ) -> None:
        """`ask` asks who answers at an address to have this node back; `addresses` are where members were last seen."""
        self._identity = identity
        self._disk = disk
        self._ask = ask
        self._holder = holder
        self._renew = renew
        self._addresses = addresses
        self._doubts = trio.Event()
        self.trouble = ""
        """Why this node cannot come home by itself, and the fix; empty while it may."""

    async def answer(self, caller: NodeId, request: Trust) -> Trusted:
        """Trust what the issuer says if it is vouched for, renew this node's certificate, and say what is held.

        Raises:
            SecurityError: Somebody else than the issuer asks, or an authority is not vouched for. Nothing was changed.
            NotReady: This node's certificate has to be renewed before its authority can be dropped.
            StorageError: The disk refused. Nothing was changed.
        """
        if caller != self._holder.issuer:
            raise SecurityError("only the issuer says which authorities are trusted")
        identity, wanted = self._identity, decode_trust(request)
        check_change(identity.trust, wanted, identity.certificate, identity.cluster_id)
        if wanted != identity.trust:
            self._adopt(identity.trusting(wanted, self._holder.key_for(wanted.authorities[0])))
        held = held_by(identity)
        if held.issued_by != held.authorities[0]:
            await self._renew()
            held = held_by(identity)
        return held

    def _adopt(self, fresh: Identity) -> None:
        save_identity(self._disk, fresh)
        self._identity.become(fresh)
        self._holder.trust_changed()
        names = [certificates.spki_hash(authority) for authority in fresh.authorities]
        log.info("channel.trust_changed", extra={"authorities": names})

    def doubt(self) -> None:
        """Note that somebody answered a dial whom this node does not trust."""
        self._doubts.set()

    async def run(self) -> None:
        """Come home whenever there is reason to doubt that this node trusts whom the others trust."""
        while True:
            await self._doubts.wait()
            errors: list[tuple[Address, FrysError]] = []
            for address in self._addresses()[:SEEDS_MAX]:
                try:
                    await self.come_home(address)
                except FrysError as error:
                    errors.append((address, error))
                else:
                    errors = []
                    break
            self._judge(errors)
            self._doubts = trio.Event()
            await trio.sleep(RETURN_EVERY_S)

    def _judge(self, errors: Sequence[tuple[Address, FrysError]]) -> None:
        """Say why nobody had this node back; it is over for good if the cluster says so, not if nobody answers."""
        final = next((error for _, error in errors if isinstance(error, (TrustLost, NotAdmitted))), None)
        self.trouble = "" if final is None else f"{final.message}; {final.hint}"
        if errors:
            told = [f"{address}: {error.message}" for address, error in errors[-3:]]
            write = log.warning if final is None else log.error
            write("channel.not_home", extra={"errors": told, "fix": RETRY_FIX if final is None else final.hint})

    async def come_home(self, seed: Address) -> None:
        """Have the issuer, which the seed is or names, renew this node's certificate.

        Raises:
            FrysError: It cannot be reached, is not followed by the seed's authority, or refused. Nothing was changed.
        """
        answer, authority = await self._ask(seed)
        if isinstance(answer, JoinRedirect):
            answer, authority = await self._ask(Address.parse(answer.address))
        if isinstance(answer, JoinRedirect):
            raise SecurityError(f"{answer.address} is not the issuer either")
        identity = self._identity
        others, links, retired = (
            tuple(map(certificates.load_der, part)) for part in (answer.also_trusted, answer.links, answer.retired)
        )
        trust = TrustSet((authority, *others), links, retired[:RETIRED_MAX])
        certificate = certificates.load_der(answer.certificate)
        check_change(identity.trust, trust, certificate, identity.cluster_id)
        self._adopt(identity.trusting(trust, self._holder.key_for(authority)).renewed(certificate))
        log.info("channel.came_home", extra={"seed": str(seed), "authority": identity.ca_hash})
