"""What the server tells of itself: INFO, CLIENT LIST and CONFIG GET, as far as tools look for it.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from frys_node.base.access import Resource
from frys_node.plugins.cache.census import Count
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.resp.client import REDIS_VERSION
from frys_node.plugins.cache.resp.session import DATABASES, Session, database_prefix, namespace_of

POLICIES = {"lru": "allkeys-lru", "lfu": "allkeys-lfu", "sieve": "allkeys-sieve"}
"""Redis' names of the policies; it has no `sieve`."""


class Facts(NamedTuple):
    """What INFO reports, as counted when it is asked for."""

    version: str
    node: str
    port: int
    uptime_s: int
    clients: int
    accepted: int
    commands: int
    hits: int
    misses: int
    evicted: int
    expired: int
    used_bytes: int
    databases: Mapping[int, tuple[int, int, int]]
    """Of each that has some: its keys, those of them that have an end, and the mean time that these have left in ms."""
    channels: int
    patterns: int
    config: CacheConfig


def _sections(facts: Facts) -> dict[str, dict[str, object]]:
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "redis_mode": "cluster",
            "frys_version": facts.version,
            "run_id": facts.node.ljust(40, "0"),
            "tcp_port": facts.port,
            "uptime_in_seconds": facts.uptime_s,
            "uptime_in_days": facts.uptime_s // 86_400,
        },
        "Clients": {"connected_clients": facts.clients, "maxclients": facts.config.resp_limits.clients},
        "Memory": {
            "used_memory": facts.used_bytes,
            "used_memory_human": f"{facts.used_bytes / 2**20:.2f}M",
            "maxmemory": facts.config.memory_bytes_max,
            "maxmemory_policy": POLICIES[facts.config.policy],
        },
        "Persistence": {"loading": 0},
        "Stats": {
            "total_connections_received": facts.accepted,
            "total_commands_processed": facts.commands,
            "expired_keys": facts.expired,
            "evicted_keys": facts.evicted,
            "keyspace_hits": facts.hits,
            "keyspace_misses": facts.misses,
            "pubsub_channels": facts.channels,
            "pubsub_patterns": facts.patterns,
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Cluster": {"cluster_enabled": 1},
        "Keyspace": {
            f"db{number}": f"keys={keys},expires={brief},avg_ttl={left_ms}"
            for number, (keys, brief, left_ms) in facts.databases.items()
        },
    }


def databases(counts: Mapping[bytes, Count], now_unix_ms: int) -> dict[int, tuple[int, int, int]]:
    """Return what INFO tells of each database, from what is held here of the namespaces."""
    found = {}
    for number in range(DATABASES):
        count = counts.get(database_prefix(number)[:-1])
        if count is not None:
            left_ms = max(0, count.ends_unix_ms // count.brief - now_unix_ms) if count.brief else 0
            found[number] = count.keys, count.brief, left_ms
    return found


def shown_to(session: Session, facts: Facts) -> Facts:
    """Return what a client may know: of databases those that its scopes name."""
    who = session.principal
    if who is None or not who.is_scoped:
        return facts
    mine = {
        number: found
        for number, found in facts.databases.items()
        if who.reaches(Resource.NAMESPACE, namespace_of(number))
    }
    return facts._replace(databases=mine)


def is_wanted(session: Session, words: Sequence[bytes]) -> bool:
    """True if CLIENT LIST with these words names a session."""
    match words[:1]:
        case [b"ID"]:
            return b"%d" % session.number in words[1:]
        case [b"TYPE"]:
            return words[1] == (b"PUBSUB" if session.subscriptions else b"NORMAL")
        case _:
            return True


def info(facts: Facts, wanted: Sequence[bytes]) -> str:
    """Return the text of INFO: all sections, or those wanted."""
    names = {section.decode(errors="replace") for section in wanted}
    is_all = not names or bool(names & {"all", "everything", "default"})
    parts = []
    for title, fields in _sections(facts).items():
        if is_all or title.lower() in names:
            parts.append(f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items()))
    return "\r\n".join(parts)


def settings(config: CacheConfig, port: int) -> dict[str, str]:
    """Return what CONFIG GET tells, by Redis' names."""
    limits = config.resp_limits
    return {
        "appendonly": "no",
        "databases": str(DATABASES),
        "maxclients": str(limits.clients),
        "maxmemory": str(config.memory_bytes_max),
        "maxmemory-policy": POLICIES[config.policy],
        "port": str(port),
        "proto-max-bulk-len": str(config.value_bytes_max),
        "save": "",
        "timeout": str(int(limits.idle_s)),
    }


def client_line(session: Session, address: str, age_s: int) -> str:
    """Return the line of CLIENT LIST about a session."""
    fields = {
        "id": session.number,
        "addr": address,
        "name": session.name.decode(errors="replace"),
        "age": age_s,
        "db": session.database,
        "sub": len(session.channels),
        "psub": len(session.patterns),
        "resp": session.protocol,
        "lib-name": session.library.get("lib-name", b"").decode(errors="replace"),
        "lib-ver": session.library.get("lib-ver", b"").decode(errors="replace"),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())
