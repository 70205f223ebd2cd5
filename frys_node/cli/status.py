"""Show what a node is and does: identity, readiness, components, epoch, what it waits for; or how it is protected."""

from __future__ import annotations

import argparse
from typing import Any

from frys_node.cli import status_security
from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.terminal import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    text = "sessions, certificates, keys, expelled nodes, tokens, refusals and listeners instead"
    parser.add_argument("--security", action="store_true", help=text)
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the status."""
    client = AdminClient(arguments)
    if arguments.security:
        body = client.call("GET", "/v1/security")
        return show(arguments, body, status_security.text(escaped(body)))
    body = client.call("GET", "/v1/status")
    return show(arguments, body, "\n".join(_lines(escaped(body))))


def _lines(value: Any, indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            inner = _lines(item, indent + "  ")
            lines += [f"{indent}{key}:", *inner] if inner else []
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{key}:")
            rows = [[None if cell == "" else cell for cell in entry.values()] for entry in item]
            lines += [f"{indent}  {line}" for line in table(rows, [name.upper() for name in item[0]]).splitlines()]
        elif isinstance(item, list) and any(isinstance(cell, str) and " " in cell for cell in item):
            lines += [f"{indent}{key}:", *(f"{indent}  {sentence}" for sentence in item)]
        elif item not in (None, "", [], {}):
            lines.append(f"{indent}{key}: {item}")
    return lines
