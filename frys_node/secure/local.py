"""The nodes that this user started on this machine, and where `join` finds a token (design, fine print 8).

``~/.local/state/frys/nodes.json`` lists data directories. `join` asks the seed for its authority's hash and takes the
``join-token`` of a listed directory whose node belongs to that authority, so that ``frys-node join --seed host:port``
alone works on one machine. The file is advisory: a damaged or missing one means only that no token is found there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from frys_node.base.errors import ConfigError
from frys_node.secure.errors import InvalidToken, TokenMissing
from frys_node.secure.token import parse_token

log = logging.getLogger(__name__)

NODES_MAX = 256
TOKEN_BYTES_MAX = 4_096
STDIN: Final = "-"
JOIN_FILE: Final = "join-token"


class LocalNode(msgspec.Struct, frozen=True, kw_only=True):
    """One data directory of this user."""

    data_dir: str
    name: str
    cluster: str
    ca_hash: str
    address: str
    """``host:port`` of the cluster port when it was last started."""
    started_unix_ns: int


class _StoredNodes(msgspec.Struct, frozen=True):
    version: int
    nodes: tuple[LocalNode, ...]


class FoundToken(NamedTuple):
    """A token's text and where it was found."""

    text: str
    source: str


def parse_nodes(data: bytes) -> tuple[LocalNode, ...]:
    """Read the registry; a damaged one is empty."""
    try:
        return msgspec.json.decode(data, type=_StoredNodes).nodes
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()


def update_nodes(nodes: Iterable[LocalNode], added: LocalNode) -> tuple[LocalNode, ...]:
    """Return the registry with one node added or replaced, the latest started first, `NODES_MAX` at most."""
    kept = [node for node in nodes if node.data_dir != added.data_dir]
    ordered = sorted([*kept, added], key=lambda node: (-node.started_unix_ns, node.data_dir))
    return tuple(ordered[:NODES_MAX])


def registry_path(environment: Mapping[str, str], home: Path) -> Path:
    """Where the registry is: under ``XDG_STATE_HOME`` or ``~/.local/state``."""
    return Path(environment.get("XDG_STATE_HOME") or home / ".local" / "state") / "frys" / "nodes.json"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.parent / ".nodes.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_nodes(path: Path) -> tuple[LocalNode, ...]:
    """Return the registered nodes, the latest started first; empty if there is no readable registry."""
    try:
        return parse_nodes(path.read_bytes())
    except OSError:
        return ()


def register_node(path: Path, node: LocalNode) -> None:
    """Add a node to the registry, under a lock, atomically.

    Raises:
        ConfigError: The registry cannot be written. It is unchanged; the node can run without it.
    """
    try:
        with _locked(path):
            nodes = update_nodes(read_nodes(path), node)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_StoredNodes(1, nodes)), indent=2))
            temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}", hint="set XDG_STATE_HOME") from error


def find_token(
    *,
    token_file: str | None,
    environment: Mapping[str, str],
    home: Path,
    ca_hash: str | None,
    read_stdin: Callable[[], str] | None = None,
) -> FoundToken:
    """Return the first join token of: ``--token-file``, ``FRYS_TOKEN``, ``~/.config/frys/token``, this user's nodes.

    Args:
        token_file: The flag's value; ``-`` is standard input.
        environment: The process's environment.
        home: The user's home directory.
        ca_hash: The seed's authority, for the choice among this user's own nodes; None if it is not known.
        read_stdin: Reads standard input, for ``-``.

    Raises:
        TokenMissing: There is none anywhere; the hint says how to get one.
        InvalidToken: The first place that has one holds something else.
    """
    found = _given_token(token_file, environment, home, read_stdin)
    if found is None and ca_hash is not None:
        found = _own_token(environment, home, ca_hash)
    if found is None:
        raise TokenMissing(
            "no join token: not in --token-file, FRYS_TOKEN, ~/.config/frys/token, nor from a node of this user",
            hint="on the issuer run: frys-node token create ; then here: frys-node join --seed ... --token-file FILE",
        )
    parse_token(found.text)
    return found


def _given_token(
    token_file: str | None, environment: Mapping[str, str], home: Path, read_stdin: Callable[[], str] | None
) -> FoundToken | None:
    if token_file == STDIN and read_stdin is not None:
        return FoundToken(read_stdin().strip(), "standard input")
    if token_file is not None:
        return FoundToken(_read_token(Path(token_file).expanduser()), token_file)
    if environment.get("FRYS_TOKEN"):
        return FoundToken(environment["FRYS_TOKEN"].strip(), "FRYS_TOKEN")
    path = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "frys" / "token"
    return FoundToken(_read_token(path), str(path)) if path.is_file() else None


def _own_token(environment: Mapping[str, str], home: Path, ca_hash: str) -> FoundToken | None:
    for node in read_nodes(registry_path(environment, home)):
        path = Path(node.data_dir) / JOIN_FILE
        if not path.is_file():
            continue
        text = _read_token(path)
        # The list says which authority the node had at its start; another one may have followed it since.
        if _pin(text) == ca_hash:
            return FoundToken(text, f"node {node.name} of this user ({path})")
    return None


def _pin(text: str) -> str | None:
    try:
        return parse_token(text).ca_hash
    except InvalidToken:
        return None


def _read_token(path: Path) -> str:
    """Read a token's file; one that everybody can read is used, with a warning (Kubernetes mounts secrets so)."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(TOKEN_BYTES_MAX)
    except OSError as error:
        raise TokenMissing(f"cannot read {path}: {error.strerror or error}", hint="check --token-file") from error
    if stat.S_ISREG(mode) and mode & 0o004:
        log.warning("secure.token_readable_by_others", extra={"path": str(path), "fix": f"chmod 600 {path}"})
    return data.decode("utf-8", "replace").strip()
