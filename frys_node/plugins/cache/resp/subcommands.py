"""The subcommands of commands that have some, and what HELP says of them.

Sans-I/O.
"""

from __future__ import annotations

SUBCOMMANDS = {
    "CLIENT": frozenset({b"SETNAME", b"GETNAME", b"SETINFO", b"ID", b"INFO", b"LIST", b"NO-EVICT", b"NO-TOUCH"}),
    "CLUSTER": frozenset({b"SLOTS", b"SHARDS", b"NODES", b"INFO", b"MYID", b"KEYSLOT"}),
    "COMMAND": frozenset({b"COUNT", b"INFO", b"LIST", b"DOCS", b"GETKEYS"}),
    "CONFIG": frozenset({b"GET"}),
    "PUBSUB": frozenset({b"CHANNELS", b"NUMSUB", b"NUMPAT"}),
}

HELP: dict[str, tuple[str, ...]] = {
    "CLIENT": (
        "GETNAME",
        "    Return the name of the current connection.",
        "ID",
        "    Return the ID of the current connection.",
        "INFO",
        "    Return information about the current client connection.",
        "LIST [TYPE <type> | ID <id> [<id> ...]]",
        "    Return information about client connections of this node.",
        "NO-EVICT (ON|OFF)",
        "    Accepted, and without effect.",
        "NO-TOUCH (ON|OFF)",
        "    Accepted, and without effect.",
        "SETINFO (LIB-NAME|LIB-VER) <value>",
        "    Tell which library the client is.",
        "SETNAME <name>",
        "    Assign the name <name> to the current connection.",
    ),
    "CLUSTER": (
        "INFO",
        "    Return information about the cluster.",
        "KEYSLOT <key>",
        "    Return the hash slot of <key>.",
        "MYID",
        "    Return the id of this node.",
        "NODES",
        "    Return the nodes that serve Redis clients, with their slots.",
        "SHARDS",
        "    Return which slots each node is first in.",
        "SLOTS",
        "    Return the nodes that serve each range of slots, the best one first.",
    ),
    "COMMAND": (
        "(no subcommand)",
        "    Return details about all commands.",
        "COUNT",
        "    Return the number of commands.",
        "DOCS [<command-name> ...]",
        "    Return an empty map: clients have documentation of their own.",
        "GETKEYS <full-command>",
        "    Return the keys from a full command.",
        "INFO [<command-name> ...]",
        "    Return details about several commands.",
        "LIST",
        "    Return the names of all commands.",
    ),
    "CONFIG": (
        "GET <pattern> [<pattern> ...]",
        "    Return parameters matching the glob-like patterns and their values.",
    ),
    "PUBSUB": (
        "CHANNELS [<pattern>]",
        "    Return the channels of this node's clients matching a <pattern> (default: '*').",
        "NUMPAT",
        "    Return the number of subscriptions to patterns.",
        "NUMSUB [<channel> ...]",
        "    Return the number of subscribers of the channels, patterns not counted.",
    ),
}
"""What HELP says after its head, of each command with subcommands."""
