"""Talks to a local node over the admin socket in its data directory, for the other verbs."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frys_node.base.errors import DeadlineExceeded, FrysError, NodeUnreachable
from frys_node.cli.arguments import timeout as timeout_of
from frys_node.cli.places import LEFT, find_data_dir, unreachable
from frys_node.cli.terminal import printable, say
from frys_node.client.errors import error_of

TIMEOUT_S = 30.0
PIECE_BYTES = 1 << 20
OCTETS = "application/octet-stream"
SOCKET_NAME = "admin.sock"


def add_common(parser: argparse.ArgumentParser, *, timeout: bool = True, is_below: bool = False) -> None:
    """Add the options that every verb talking to a node has; without `timeout` a verb has its own, or none.

    `is_below` is for the actions of a verb that has the options itself: what was given before the action stays.
    """
    kept: dict[str, Any] = {"default": argparse.SUPPRESS} if is_below else {}
    text = "the node's data directory (default: FRYS_DATA_DIR, or the only one here)"
    parser.add_argument("--data-dir", metavar="D", help=text, **kept)
    parser.add_argument("--json", action="store_true", help="print the HTTP body", **kept)
    if timeout:
        text = "give up after so long: 500ms, 90s, 5m, or plain seconds"
        text += "" if is_below else " (default %(default)gs)"
        parser.add_argument("--timeout", type=timeout_of, metavar="T", help=text, **{"default": TIMEOUT_S, **kept})


class BrokenOff(FrysError):
    """The node ended an answer before its end. What came of it was not kept."""

    code = "cli.broken_off"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket; the directory is opened first, so that its path may be of any length."""

    def __init__(self, data_dir: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._data_dir = data_dir

    def connect(self) -> None:
        directory = os.open(self._data_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = self._opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)

    def wait_until(self, end_s: float) -> None:
        """Have the next read end at an instant at the latest.

        Raises:
            TimeoutError: That instant is past.
        """
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        # http.client gives its socket away with an answer that ends the connection.
        self._opened.settimeout(min(left_s, self.timeout or left_s))


class AdminClient:
    """One node, by its data directory."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data_dir = find_data_dir(arguments.data_dir)
        self.timeout_s: float = getattr(arguments, "timeout", TIMEOUT_S)

    def request(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request; returns status, body and headers.

        Raises:
            NodeUnreachable: Nothing answers on the node's socket.
            DeadlineExceeded: No answer within the timeout; whether the request was done is unknown.
        """
        connection = _UnixConnection(self.data_dir, self.timeout_s)
        payload = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers} if payload is not None else dict(headers)
        try:
            connection.request(method, path, payload, sent)
            response = connection.getresponse()
            return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the node in {self.data_dir} did not answer within {self.timeout_s:g} s", hint="try a larger --timeout"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self.data_dir, error) from error
        finally:
            connection.close()

    def lines(
        self, method: str, path: str, body: Any = None, *, end_s: float | None = None, is_endless: bool = False
    ) -> Iterator[bytes]:
        """Send a request and yield the lines of an answer that comes bit by bit; `end_s` (monotonic) ends the wait.

        An answer that has no end of its own (`is_endless`) ends only because the node does.

        Raises:
            NodeUnreachable: Nothing answers on the node's socket, or the node stops.
            DeadlineExceeded: `end_s` is reached, or the node says nothing for the timeout.
            FrysError: The node refuses.
        """
        connection = _UnixConnection(self.data_dir, self.timeout_s)
        payload = None if body is None else json.dumps(body).encode()
        has_begun = False
        try:
            connection.request(method, path, payload, {} if payload is None else {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                raise error_of(json.loads(response.read() or b"null"), response.status)
            has_begun = True
            while True:
                if end_s is not None:
                    connection.wait_until(end_s)
                line = response.readline()
                if not line and is_endless:
                    raise self.stopped()
                if not line:
                    break
                yield line
        except TimeoutError as error:
            raise DeadlineExceeded(f"the node in {self.data_dir} says nothing any more") from error
        except (OSError, http.client.HTTPException) as error:
            raise (self.stopped() if has_begun else unreachable(self.data_dir, error)) from error
        finally:
            connection.close()

    @contextmanager
    def download(self, path: str, body: Any, broken: str) -> Iterator[tuple[Mapping[str, str], Iterator[bytes]]]:
        """Post a request whose answer is a long file; yields its headers and its pieces, to be read in here.

        Raises:
            NodeUnreachable: Nothing answers on the node's socket.
            BrokenOff: The node ended the answer before its end; `broken` is the fix.
            DeadlineExceeded: The node says nothing for the timeout.
            FrysError: The node refuses.
        """
        connection = _UnixConnection(self.data_dir, self.timeout_s)
        try:
            connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                raise error_of(json.loads(response.read() or b"null"), response.status)
            headers = {k.lower(): v for k, v in response.getheaders()}
            yield headers, iter(lambda: self._piece(response, broken), b"")
        except TimeoutError as error:
            raise DeadlineExceeded(f"the node in {self.data_dir} says nothing any more") from error
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self.data_dir, error) from error
        finally:
            connection.close()

    def _piece(self, response: http.client.HTTPResponse, broken: str) -> bytes:
        try:
            return response.read(PIECE_BYTES)
        except (http.client.IncompleteRead, ConnectionError) as error:
            raise BrokenOff(f"the node in {self.data_dir} broke off", hint=broken) from error

    def stopped(self) -> NodeUnreachable:
        """Return the error of an answer that broke off."""
        if (self.data_dir / LEFT).exists():
            return unreachable(self.data_dir, None)
        return NodeUnreachable(
            f"the node in {self.data_dir} stopped",
            hint=f"its log says why; start it again: frys-node start --data-dir {self.data_dir}",
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the decoded answer; an error answer is raised as the error it names."""
        return self._decode(*self.request(method, path, body)[:2])

    def call_raw(self, method: str, path: str, data: bytes) -> Any:
        """Send bytes as they are and return the decoded answer; see `call`."""
        return self._decode(*self.request(method, path, raw=data, headers={"Content-Type": OCTETS})[:2])

    @staticmethod
    def _decode(status: int, data: bytes) -> Any:
        value = json.loads(data) if data else None
        if status >= 400:
            raise error_of(value, status)
        return value


def member_names(client: AdminClient) -> dict[str, str]:
    """Return the names of all nodes that the node knows of, by id."""
    return {member["id"]: member["name"] for member in client.call("GET", "/v1/members")["members"]}


def show(arguments: argparse.Namespace, value: Any, text: str) -> int:
    """Print the JSON body or the text for people."""
    say(json.dumps(value, indent=2 if sys.stdout.isatty() else None) if arguments.json else text)
    return 0


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Lay rows out in columns; numbers are right-aligned, None is a dash."""
    cells = [[("-" if cell is None else printable(str(cell))) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in cells) and bool(cells) for i in range(len(header))]
    widths = [
        max(len(header[i]), *(len(row[i]) for row in cells)) if cells else len(header[i]) for i in range(len(header))
    ]
    lines = []
    for row in [list(header), *cells]:
        parts = [cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("-", "", 1).isdigit()


def bytes_text(count: float) -> str:
    """Return a size for people: ``1.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
