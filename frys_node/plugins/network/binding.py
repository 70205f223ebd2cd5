"""Ports that move: a busy default port goes up at the first start and stays where it went (design, fine print 7).

`node.py` uses this for the cluster port too, with a bind that takes TCP and UDP together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from frys_node.base.errors import CorruptData
from frys_node.base.ports import Disk
from frys_node.base.types import Address
from frys_node.observe.log import get_logger
from frys_node.transport.errors import AddressInUse

T = TypeVar("T")

MOVES_MAX = 64
"""Ports tried above a busy default before the start gives up."""

FILE = "ports.json"

log = get_logger(__name__)


class PortBook:
    """Remembers where each default port of this node ended up, in its data directory."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._ports: dict[str, str] = {}
        data = disk.read(FILE)
        if data is not None:
            try:
                self._ports = msgspec.json.decode(data, type=dict[str, str])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CorruptData(
                    f"{FILE} in the data directory is unreadable: {error}",
                    hint="remove the file; the ports are then chosen anew",
                ) from error

    def get(self, name: str) -> Address | None:
        """Return the address that a listener took at the first start."""
        text = self._ports.get(name)
        return Address.parse(text) if text is not None else None

    def put(self, name: str, address: Address) -> None:
        """Remember an address, durably."""
        if self._ports.get(name) != str(address):
            self._ports[name] = str(address)
            self._disk.write(FILE, msgspec.json.encode(self._ports, order="sorted"))


async def listen_or_move(
    name: str,
    address: Address,
    bind: Callable[[Address], Awaitable[T]],
    *,
    is_chosen: bool,
    book: PortBook | None = None,
) -> tuple[T, Address]:
    """Bind an address; a busy default port moves up, and the outcome is kept for the next start.

    Args:
        name: Key in the book, such as ``http`` or ``cluster``.
        address: What the config says.
        bind: Binds and returns the listener; raises `AddressInUse` when the port is taken.
        is_chosen: The operator set the address: it never moves and the book is not asked.
        book: Where a default's port is remembered.

    Returns:
        The listener and the address that was asked for (its port is 0 when the config says so).

    Raises:
        AddressInUse: A chosen port, the remembered port, or all ports above the default are busy. Nothing is bound.
    """
    if is_chosen:
        return await bind(address), address
    kept = book.get(name) if book is not None else None
    if kept is not None and kept.host == address.host:
        try:
            return await bind(kept), kept
        except AddressInUse as error:
            raise AddressInUse(
                f"{error.message}; this node has used it since its first start",
                hint=f"stop the process that holds it, or choose another port for '{name}' in the config",
            ) from error
    for step in range(MOVES_MAX):
        wanted = Address(address.host, address.port + step)
        if wanted.port > 65_535:
            break
        try:
            listener = await bind(wanted)
        except AddressInUse:
            continue
        if step:
            log.warning("network.port_moved", listener=name, wanted=str(address), taken=str(wanted))
        if book is not None and wanted.port:
            book.put(name, wanted)
        return listener, wanted
    raise AddressInUse(
        f"port {address.port} and the {MOVES_MAX - 1} above it are in use on {address.host}",
        hint=f"choose a free port for '{name}' in the config",
    )
