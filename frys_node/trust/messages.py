"""What members tell each other on every connection of whom to trust.

Sans-I/O. It is one of the channel's messages (`channel.messages`), whose numbering it shares.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from frys_node.secure.admin import HASHES_MAX, AdminWord
from frys_node.secure.keyring import EPOCHS_MAX, EpochKey
from frys_node.secure.statements import EXPULSIONS_MAX, REVOKED_MAX, SIGNATURE_BYTES_MAX, Expulsion, NodeIdText
from frys_node.trust.departures import DEPARTURES_MAX
from frys_node.wire.codec import Message


class Credentials(Message, frozen=True, tag=2):
    """What only members may know. Bounded by what an honest member tells, before any signature is looked at."""

    keys: Annotated[tuple[EpochKey, ...], msgspec.Meta(max_length=EPOCHS_MAX)]
    admin_hashes: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=HASHES_MAX)] = ()
    """Taken from the issuer itself only."""
    revoked: Annotated[tuple[NodeIdText, ...], msgspec.Meta(max_length=REVOKED_MAX)] = ()
    """Every expelled node. Nobody takes it without a statement: any member can make itself the issuer."""
    expulsions: Annotated[tuple[Expulsion, ...], msgspec.Meta(max_length=EXPULSIONS_MAX)] = ()
    """What the authority has signed: taken from anybody."""
    admin: AdminWord | None = None
    """Likewise; None until the admin token was replaced for the first time."""
    departed: Annotated[tuple[NodeIdText, ...], msgspec.Meta(max_length=DEPARTURES_MAX)] = ()
    """Who has left for good: taken from the issuer itself only, and with the signature."""
    departed_signature: Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES_MAX)] = b""
    """The authority's, over `departed`; empty from whoever does not hold its key."""
