"""Sealed exports on the command line: `snapshot keygen`, `export`, `import` and `inspect`.

The node seals, so that plain bytes never leave it; this command opens, so that the key never leaves the command. A file
is read twice when it is imported: once to prove that all of it is there, before the node is told anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from frys_node.base.errors import AlreadyExists, UsageError
from frys_node.cli.admin import AdminClient, bytes_text, show
from frys_node.cli.files import STDOUT, NewFile, StandardOutput, read_secret_text, read_text, write_new
from frys_node.cli.sealed import SUFFIX
from frys_node.cli.sealed_file import Progress, SealedFile
from frys_node.cli.terminal import printable_lines
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import (
    KEY_PREFIX,
    KEY_TEXT_MAX,
    RECIPIENT_PREFIX,
    Recipient,
    SealKey,
    format_recipient,
    key_file,
    parse_key,
    parse_recipient,
    parse_recipients,
    recipient_file,
    shown,
)
from snapshots.archive import Item, bodies
from snapshots.index import SavedSnapshot

BATCH_BYTES: Final = 2 << 20
"""What goes to the node in one request, unless one object alone is larger."""


def run(arguments: argparse.Namespace, store: str) -> int:
    """Run the chosen action; `store` is the place as the node understands it."""
    match arguments.action:
        case "keygen":
            return _keygen(arguments)
        case "export":
            return _export(arguments, store)
        case "import":
            return _import(arguments, store)
        case _:
            return _inspect(arguments)


def _keygen(arguments: argparse.Namespace) -> int:
    path, public = Path(arguments.out), Path(f"{arguments.out}.pub")
    if os.path.lexists(public):
        other = "choose another name with --out"
        if not os.path.lexists(path):
            other += f", or remove it if it came of a keygen that was broken off: there is no {path} beside it"
        raise AlreadyExists(f"{public} exists, and is not replaced", hint=other)
    key = SealKey.of(arguments.provider, load_kem(arguments.provider).generate())
    # The recipient first: whatever ends this in between leaves no private key that nobody knows of.
    write_new((public, recipient_file(key.recipient)), (path, key_file(key)))
    fingerprint, recipient = shown(key.recipient.fingerprint), format_recipient(key.recipient)
    body = {
        "key_file": str(path),
        "recipient_file": str(public),
        "fingerprint": fingerprint,
        "recipient": recipient,
        "provider": key.provider,
    }
    if not arguments.json:
        print(f"key {fingerprint} is in {path}: keep it off the cluster, and a copy elsewhere", file=sys.stderr)
        print(f"seal to it with: frys-node snapshot export NAME --to {public}", file=sys.stderr)
    return show(arguments, body, recipient)


def _recipients(texts: list[str]) -> list[Recipient]:
    """Read what --to names: texts, and files of them."""
    found: list[Recipient] = []
    for text in texts:
        if text.startswith((RECIPIENT_PREFIX, KEY_PREFIX)):
            found.append(parse_recipient(text))
        else:
            found += parse_recipients(read_text(Path(text), KEY_TEXT_MAX))
    return list(dict.fromkeys(found))


def _key(text: str) -> SealKey:
    if text.startswith(KEY_PREFIX):
        raise UsageError(
            "a key is never an argument: every user of this machine can read it there",
            hint="give its file, or - and the key on standard input; that key should be replaced",
        )
    return parse_key(read_secret_text(text, KEY_TEXT_MAX))


def _export(arguments: argparse.Namespace, store: str) -> int:
    recipients = _recipients(arguments.to)
    client = AdminClient(arguments)
    is_piped = arguments.out == STDOUT
    place = StandardOutput() if is_piped else NewFile(Path(arguments.out or f"{arguments.name}{SUFFIX}"))
    wanted = {"name": arguments.name, "store": store, "recipients": [format_recipient(one) for one in recipients]}
    digest, size = hashlib.sha256(), 0
    broken = f"look into the node's log, or: frys-node snapshot verify {arguments.name}"
    with place as file, client.download("/v1/snapshots/export", wanted, broken) as (headers, pieces):
        progress = Progress("exported", int(headers.get("frys-sealed-bytes", "0")))
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            progress.show(size)
        file.commit()
    progress.end()
    body = {
        "name": arguments.name,
        "file": str(place.path),
        "size_bytes": size,
        "sha256": digest.hexdigest(),
        "recipients": [shown(one.fingerprint) for one in recipients],
    }
    text = f"exported {arguments.name} into {place.path}, {bytes_text(size)}, for {', '.join(body['recipients'])}"
    text = f"{text}\nsha256 {digest.hexdigest()}"
    if is_piped:
        print(json.dumps(body) if arguments.json else printable_lines(text), file=sys.stderr)
        return 0
    return show(arguments, body, text)


def _import(arguments: argparse.Namespace, store: str) -> int:
    key = _key(arguments.key)
    client = AdminClient(arguments)
    with SealedFile(Path(arguments.file), key) as file:
        inventory = file.check()
        index = inventory.finish()
        name = arguments.name or index.name
        saved = client.call("GET", f"/v1/snapshots?{urlencode({'store': store})}")["snapshots"]
        if any(one["name"] == name for one in saved):
            raise AlreadyExists(f"a snapshot '{name}' exists", hint="choose another name with --name, or delete it")
        report = _send(client, file.again("imported", inventory), store, name)
    body = {
        "name": name,
        "file": str(file.path),
        "store": store,
        "units": report["units"],
        "chunks": report["chunks"],
        "size_bytes": report["size_bytes"],
    }
    where = f" --store {arguments.store}" if arguments.store else ""
    text = f"imported {name}: {report['units']} units, {report['chunks']} chunks, {bytes_text(report['size_bytes'])}"
    return show(arguments, body, f"{text}\nbring it back with: frys-node snapshot restore {name}{where}")


def _send(client: AdminClient, items: Iterator[Item], store: str, name: str) -> Any:
    """Bring a file's objects to the node, then its index; returns what the node found there."""
    target = f"/v1/snapshots/objects?{urlencode({'store': store})}"
    index = next(items).data
    for body in bodies(items, BATCH_BYTES):
        client.call_raw("POST", target, body)
    return client.call_raw("POST", f"/v1/snapshots/import?{urlencode({'store': store, 'name': name})}", index)


def _inspect(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    key = None if arguments.key is None else _key(arguments.key)
    with SealedFile(path, key) as file:
        body = file.about()
        lines = [
            f"{path}: sealed file of frys, format {body['format']}, {bytes_text(body['size_bytes'])}",
            f"for {', '.join(body['recipients'])}",
        ]
        if key is None:
            lines.append("nothing of this is proven, and nothing more can be told, without a recipient's key (--key)")
            return show(arguments, body, "\n".join(lines))
        inventory = file.check()
    index = inventory.finish()
    body |= {"is_proven": True, "chunks": inventory.chunks, "snapshot": _told(index)}
    return show(arguments, body, "\n".join([*lines, *_told_lines(body["snapshot"])]))


def _told(index: SavedSnapshot) -> Mapping[str, Any]:
    return {
        "name": index.name,
        "scope": index.scope,
        "cluster": index.cluster,
        "nodes": sorted(index.nodes.values()),
        "created_unix_ns": index.created_unix_ns,
        "epoch": None if index.epoch is None else str(index.epoch),
        "units": len({unit.unit for unit in index.units}),
        "size_bytes": index.size_bytes,
        "missing": len(index.missing),
    }


def _told_lines(told: Mapping[str, Any]) -> list[str]:
    at = datetime.fromtimestamp(told["created_unix_ns"] / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    missing = f"; {told['missing']} units are not in it" if told["missing"] else ""
    return [
        f"whole: snapshot {told['name']} ({told['scope']}) of cluster {told['cluster']}, saved {at}",
        f"{told['units']} units, {bytes_text(told['size_bytes'])}, of {', '.join(told['nodes'])}{missing}",
    ]
