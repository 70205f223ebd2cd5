"""Who is gone: how long the dead and the left are remembered, and who is counted as left without having said so.

Sans-I/O. A dead member may come back and is tried again; one that has left is not, and its name is free. So only the
dead are ever counted as left by others: by hand, or because another node lives under the name.
"""

from __future__ import annotations

from msgspec.structs import replace

from frys_node.base.types import NodeId
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.errors import MemberAlive
from membership.member import Member
from membership.messages import ACCUSERS_NEEDED, Evidence, Standing
from membership.voices import accusations_in, life_of


class Departed:
    """The members of one node's table that are not live."""

    __slots__ = ("_claims", "_config")

    def __init__(self, claims: Claims, config: MembershipConfig) -> None:
        self._claims = claims
        self._config = config

    def reap(self, now_s: float) -> None:
        """Forget members whose time is up."""
        claims = self._claims
        claims.damping.forget(now_s)
        self._give_up_names(now_s)
        for member in list(claims.table):
            if member.node != claims.node and now_s - member.changed_s >= claims.reap_after_s(member.standing):
                claims.forget(member.node)

    def is_reclaimable(self, member: Member, now_s: float) -> bool:
        """Return True if a member has been dead for so long that another one may have its name."""
        return member.standing is Standing.DEAD and now_s - member.changed_s >= self._config.dead_reclaim_s

    def _give_up_names(self, now_s: float) -> None:
        """Count as left whoever is dead while another node lives under its name: the machine has been replaced.

        If it comes back all the same it refutes, as from any death, and the two are told apart by their ids.
        """
        claims = self._claims
        if not claims.table.counts[Standing.DEAD]:
            return
        names = {m.update.attributes.name: m.node for m in claims.table if m.is_live}
        for member in list(claims.table):
            heir = names.get(member.update.attributes.name)
            if heir is not None and self.is_reclaimable(member, now_s):
                claims.tallies.add(claims.tallies.events, "name_reclaimed")
                self._let_go(member, heir, now_s)

    def force_leave(self, name: str, now_s: float) -> None:
        """Declare a dead member, given by name or id, to have left; nothing happens if it has.

        Raises:
            NotFound: No such member, or several of that name. State is unchanged.
            MemberAlive: It is not dead. State is unchanged.
        """
        member = self._claims.sole(name)
        if member.is_live and self._claims.is_isolated:
            raise MemberAlive(
                f"this node hears nobody, so it cannot tell whether '{name}' is dead",
                hint="mend its network; if all the others are gone for good, restart this node: it begins without them",
            )
        if member.standing is Standing.ALIVE:
            raise MemberAlive(f"'{name}' is alive", hint="run `frys-node leave` on it")
        if member.standing is Standing.SUSPECT:
            # It may be slow, or stand still: it would come back to a cluster that has given its name away.
            text = f"'{name}' is suspect, not dead: it may still answer"
            raise MemberAlive(text, hint=f"wait until it is dead; `frys-node why {name}` tells when that will be")
        if member.standing is Standing.DEAD:
            self._let_go(member, self._claims.node, now_s)

    def _let_go(self, member: Member, who: NodeId, now_s: float) -> None:
        """Count a member as left on account of its heir, or of who forces it out."""
        claims, dead = self._claims, member.update
        gone = replace(
            dead,
            standing=Standing.LEFT,
            accuser=who,
            evidence=Evidence.SILENCE,
            # That it lives under the name, everybody sees.
            word=claims.signing.release(life_of(dead)) if who == claims.node else b"",
            # Whoever has missed the death is shown its proof.
            accusations=accusations_in(dead)[:ACCUSERS_NEEDED],
        )
        claims.merge(gone, now_s)
