"""The issuer's durable steps from one authority to the next.

Each step is one atomic write of the identity, so that a crash leaves the stage before or the stage after. The new key
waits in ``issuer/rotation.json`` until it issues; the standbys' copy of the authority carries that file, so that
whoever becomes the issuer goes on.
"""

from __future__ import annotations

import logging
import math
from typing import Final

from frys_node.base.errors import CorruptData, NotReady
from frys_node.base.ports import Clock, Disk, Entropy
from frys_node.secure import certificates
from frys_node.secure.identity import Identity, save_identity
from frys_node.secure.signing_keys import new_key
from frys_node.secure.trust import make_link
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.pending import ROTATION_PATH, Pending, encode_pending, read_pending
from frys_node.trust.rotation import Stage, Wanted

log = logging.getLogger(__name__)

HINT_WAIT: Final = "see how far it is: frys-node ca"


class RotationDesk:
    """Makes the next authority, has it issue, drops the old one. Only on the issuer."""

    def __init__(self, identity: Identity, holder: AuthorityHolder, disk: Disk, entropy: Entropy, clock: Clock) -> None:
        self._identity = identity
        self._holder = holder
        self._disk = disk
        self._entropy = entropy
        self._clock = clock

    @property
    def wanted(self) -> Wanted:
        """The stage, and what every member shall have in it."""
        identity = self._identity
        hashes = tuple(certificates.spki_hash(authority) for authority in identity.authorities)
        if len(hashes) == 1:
            return Wanted(Stage.STABLE, hashes)
        pending = read_pending(self._disk)
        is_introduced = pending is not None and pending.certificate in identity.also_trusted
        return Wanted(Stage.INTRODUCED if is_introduced else Stage.ISSUING, hashes)

    @property
    def was_rotated(self) -> bool:
        """True if this cluster ever had another authority: if not, there is nothing to tell anybody."""
        identity = self._identity
        return bool(identity.also_trusted or identity.links or identity.retired)

    @property
    def changed_at(self) -> int:
        """Unix seconds at which the authority that issues was made; 0 for the first. It outlives every restart."""
        start = self._identity.ca_certificate.not_valid_before_utc.timestamp()
        return int(start) + certificates.BACKDATE_S if self.was_rotated else 0

    @property
    def age_s(self) -> float:
        """Seconds since the authority was last replaced, infinite if it never was; 0 if the clock went back."""
        if not self.was_rotated:
            return math.inf
        return max(0.0, self._clock.unix_ns() / 1_000_000_000 - self.changed_at)

    def begin(self) -> None:
        """Make a new authority, signed by the present one, and trust it too, durably.

        Raises:
            NotReady: This node has no key, or a change is under way. Nothing was changed.
            StorageError: The disk refused. Nothing was changed.
        """
        identity = self._identity
        if identity.ca_key is None:
            raise NotReady(
                "this node does not hold the authority's key",
                hint="hand the role to one that does: frys-node issuer handover NAME",
            )
        if self.wanted.stage is not Stage.STABLE:
            raise NotReady("the authority is being changed already", hint=HINT_WAIT)
        now = self._clock.unix_ns()
        key = new_key(self._entropy, identity.kind)
        authority = certificates.create_authority(key, identity.cluster_id, identity.cluster_name, now, is_first=False)
        link = make_link(identity.ca_key, identity.ca_certificate, authority, identity.cluster_id, now)
        # The key first: an authority that is trusted and cannot sign would hold up the next change for good.
        self._disk.write(ROTATION_PATH, encode_pending(Pending(key, authority, link)))
        self._adopt(identity.trusting(identity.trust.introducing(authority, link), identity.ca_key))
        log.info("channel.authority_introduced", extra={"authority": certificates.spki_hash(authority)})

    def switch(self) -> None:
        """Have the new authority issue, this node's own certificate first, durably; join tokens pin it from now on.

        Raises:
            CorruptData: The new key is gone. Nothing was changed.
            StorageError: The disk refused. Nothing was changed.
        """
        identity = self._identity
        pending = read_pending(self._disk)
        if pending is None:
            raise CorruptData(f"{ROTATION_PATH} is gone", hint="restore it from a backup or a standby")
        subject = certificates.read_subject(identity.certificate)
        fresh = identity.trusting(identity.trust.switched(pending.certificate), pending.key)
        fresh.certificate = certificates.issue(
            pending.key,
            pending.certificate,
            identity.key.public_key(),
            subject=subject,
            unix_ns=self._clock.unix_ns(),
        )
        self._adopt(fresh)
        self._holder.renew_desk()
        log.info("channel.authority_switched", extra={"authority": identity.ca_hash})

    def retire(self) -> None:
        """Drop the old authority, durably.

        Raises:
            StorageError: The disk refused. Nothing was changed.
        """
        identity = self._identity
        self._adopt(identity.trusting(identity.trust.retiring(), identity.ca_key))
        log.info("channel.authority_retired", extra={"authority": identity.ca_hash})

    def _adopt(self, fresh: Identity) -> None:
        save_identity(self._disk, fresh)
        self._identity.become(fresh)
        self._holder.trust_changed()
