"""One member and the precedence of claims about it.

Sans-I/O. The identity of a running member is (node id, boot, incarnation); name, address and tags are attributes.
Claims about a node are totally ordered by (boot, incarnation, standing, attributes), and a table keeps the greatest:
merging is therefore commutative, associative, idempotent and monotone (invariant M5).
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Condition, MemberView, Status
from membership.detector import Vitals
from membership.errors import TagsTooLarge
from membership.messages import TAGS_BYTES_MAX, UPDATES, Attributes, Standing, Update
from membership.story import Entry, Story

STATUS = {
    Standing.ALIVE: Status.ALIVE,
    Standing.SUSPECT: Status.SUSPECT,
    Standing.DEAD: Status.DEAD,
    Standing.LEFT: Status.LEFT,
}

ATTRIBUTES_BYTES_MAX = 896
"""What a member says of itself, encoded."""

UPDATE_BYTES_MAX = ATTRIBUTES_BYTES_MAX + 512
"""A claim with all its signatures. One that does not fit into a packet travels without attributes."""

AGE_S_MAX = 30 * 86_400
"""Nobody remembers the dead and the left for longer (see `MembershipConfig.dead_reap_s`)."""


def precedence(update: Update) -> tuple[int, int, Standing, Attributes]:
    """Return what decides between claims about one node; who accuses, on what evidence and since when does not."""
    return update.boot, update.incarnation, update.standing, update.attributes


def supersedes(new: Update, old: Update) -> bool:
    """Return True if `new` is the greater claim about the same node."""
    new_key = (new.boot, new.incarnation, new.standing)
    old_key = (old.boot, old.incarnation, old.standing)
    return new_key > old_key or (new_key == old_key and new.attributes > old.attributes)


def make_attributes(name: str, address: Address, http: str = "", tags: dict[str, str] | None = None) -> Attributes:
    """Build a member's attributes with the tags in order.

    Raises:
        TagsTooLarge: The tags are over `TAGS_BYTES_MAX`, or all of it is over `ATTRIBUTES_BYTES_MAX`. Nothing changed.
    """
    pairs = tuple(sorted((tags or {}).items()))
    tags_bytes = len(msgspec.msgpack.encode(pairs))
    if tags_bytes > TAGS_BYTES_MAX:
        raise TagsTooLarge(f"the tags take {tags_bytes} bytes, the limit is {TAGS_BYTES_MAX}", hint="shorten the tags")
    attributes = Attributes(name=name, host=address.host, port=address.port, http=http, tags=pairs)
    try:
        UPDATES.decode(UPDATES.encode(Update(NodeId("x"), 0, 0, Standing.ALIVE, attributes)))
    except MalformedFrame as error:
        raise TagsTooLarge(f"name, address or tags are over a limit: {error}") from error
    size_bytes = len(msgspec.msgpack.encode(attributes))
    if size_bytes > ATTRIBUTES_BYTES_MAX:
        raise TagsTooLarge(f"name, addresses and tags take {size_bytes} bytes, the limit is {ATTRIBUTES_BYTES_MAX}")
    return attributes


def is_acceptable(update: Update) -> bool:
    """Return False for an update that no honest member makes: too large, too old, tags over the limit or unordered."""
    if update.age_s > AGE_S_MAX or len(UPDATES.encode(update)) > UPDATE_BYTES_MAX:
        return False
    tags = update.attributes.tags
    if not tags:
        return True
    total = sum(len(key) + len(value) for key, value in tags)
    return total <= TAGS_BYTES_MAX and all(a[0] < b[0] for a, b in pairwise(tags))


class Member:
    """A member as this node knows it: the greatest claim, since when, and what its acks tell."""

    __slots__ = ("_story", "acquainted_boot", "changed_s", "refused_s", "stopped_boot", "update", "vitals")

    def __init__(self, update: Update, now_s: float) -> None:
        self.update = update
        self.changed_s = now_s
        self.vitals = Vitals()
        self._story: Story | None = None
        self.acquainted_boot: int | None = None
        """The boot of the member that has answered this node lately, so knows it."""
        self.stopped_boot: int | None = None
        """The boot of which it has announced to this node that its process is being stopped."""
        self.refused_s = -math.inf
        """When its port refused a connection from here last."""

    @property
    def node(self) -> NodeId:
        """The member's id."""
        return self.update.node

    @property
    def standing(self) -> Standing:
        """What is claimed of it."""
        return self.update.standing

    @property
    def is_acquainted(self) -> bool:
        """True if the member as it runs now has answered this node, and no silence since has cast doubt on that."""
        return self.acquainted_boot == self.update.boot

    @property
    def has_stopped(self) -> bool:
        """True if the process as it is known has announced its end: whoever is found on its port is another one."""
        return self.stopped_boot == self.update.boot

    @property
    def is_live(self) -> bool:
        """True if alive or suspect: still a member to probe and to tell."""
        return self.update.standing <= Standing.SUSPECT

    @property
    def address(self) -> Address:
        """Where it is reached."""
        return self.update.attributes.address

    def aged(self, now_s: float) -> Update:
        """Return the claim with its age, if the member is dead or has left."""
        if self.is_live:
            return self.update
        return replace(self.update, age_s=max(0, int(now_s - self.changed_s)))

    @property
    def identity(self) -> tuple[int, int]:
        """Boot and incarnation."""
        return self.update.boot, self.update.incarnation

    @property
    def story(self) -> tuple[Entry, ...]:
        """What happened to it, oldest first."""
        return () if self._story is None else self._story.entries()

    def tell(self, entry: Entry) -> None:
        """Add a turn to its story."""
        if self._story is None:
            self._story = Story()
        self._story.add(entry)


def view_of(update: Update, vitals: Vitals, changed_unix_ns: int, condition: Condition, now_s: float) -> MemberView:
    """Return the public view of a claim as of now."""
    attributes = update.attributes
    return MemberView(
        name=attributes.name,
        id=update.node,
        address=attributes.address,
        status=STATUS[update.standing],
        condition=condition,
        incarnation=update.incarnation,
        boot=update.boot,
        tags=dict(attributes.tags),
        phi=vitals.phi(now_s),
        rtt_s=vitals.srtt_s,
        changed_unix_ns=changed_unix_ns,
        http=attributes.http,
    )
