"""Read repair: what to send to replicas that answered a read with something older.

Sans-I/O. Asynchronous and unacknowledged: no guarantee rests on it (rule 15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Entry
from frys_node.replication.messages import ReadReply


def repairs(result: Sequence[Entry | None], replies: Mapping[NodeId, ReadReply]) -> dict[NodeId, list[Entry]]:
    """Return, for each replica whose reply is behind the result, the entries that it lacks or has older.

    A reply may go on beyond the result, of which all is known; what they are together fits in a message.
    """
    wanted: dict[NodeId, list[Entry]] = {}
    for node, reply in replies.items():
        behind = [
            newest
            for newest, held in zip(result, reply.entries, strict=False)
            if newest is not None and (held is None or held.version < newest.version)
        ]
        if behind:
            wanted[node] = behind
    return wanted
