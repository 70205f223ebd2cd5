"""What a client is told: where nodes are, and the token that proves who it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from frys_node.base.errors import ConfigError
from frys_node.base.types import Address

if TYPE_CHECKING:
    from OpenSSL import SSL

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 10.0
"""What one operation may take, when nobody says otherwise."""

TOKEN_VARIABLE = "FRYS_ADMIN_TOKEN"  # noqa: S105 (a variable's name)
DATA_DIR_VARIABLE = "FRYS_DATA_DIR"
TOKEN_FILE = "admin-token"  # noqa: S105 (a file's name)
AUTHORITY_FILE = "ca.pem"
TOKEN_BYTES_MAX = 4_096


def addresses_of(urls: str | Sequence[str]) -> list[Address]:
    """Return the addresses of URLs such as ``http://host:8080``, each once, in their order.

    Raises:
        ConfigError: A URL has another scheme, a path, a user or no host.
    """
    given = [urls] if isinstance(urls, str) else urls
    found = [_address_of(url) for url in given]
    if not found:
        raise ConfigError("a client needs the URL of at least one node", hint=f"such as {DEFAULT_URL}")
    return list(dict.fromkeys(found))


def _address_of(url: str) -> Address:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"'{url[:256]}' is no URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"'{url[:256]}': the scheme is none that a node speaks", hint="use http:// or https://")
    if not parts.hostname or "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"'{url[:256]}' is not the URL of a node", hint="use http://host:port, without a path")
    return Address(parts.hostname, (443 if parts.scheme == "https" else 80) if port is None else port)


def find_trust(
    urls: str | Sequence[str], ca: str | os.PathLike[str] | None, data_dir: str | os.PathLike[str] | None
) -> SSL.Context | None:
    """Return how to speak TLS, with what `ca` or the data directory says whom to trust; None for ``http://`` URLs.

    Raises:
        ConfigError: Some URLs are https and some are not, or the file of the authority cannot be used.
    """
    given = [urls] if isinstance(urls, str) else urls
    are_secure = {url.lower().startswith("https://") for url in given}
    if len(are_secure) > 1:
        raise ConfigError(
            "some URLs are https and some are not", hint="a token that travels in the clear is everybody's"
        )
    if True not in are_secure:
        return None
    from frys_node.client.secured import context_of

    known = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if ca is None and known is not None and (Path(known) / AUTHORITY_FILE).is_file():
        ca = Path(known) / AUTHORITY_FILE
    return context_of(None if ca is None else os.fspath(ca))


def find_token(
    token: str | None, data_dir: str | os.PathLike[str] | None, environment: Mapping[str, str] | None = None
) -> str:
    """Return the token: as given, of a node's data directory, or of the environment; empty for none.

    The order is `token`, `data_dir`, ``FRYS_ADMIN_TOKEN``, ``FRYS_DATA_DIR``. A directory of a node that did not found
    the cluster has no token; that is an error only for `data_dir`.

    Raises:
        ConfigError: `data_dir` holds no token, or a token cannot be in a header.
    """
    known = os.environ if environment is None else environment
    text = token
    if text is None and data_dir is not None:
        text = _read(Path(data_dir) / TOKEN_FILE)
        if text is None:
            raise ConfigError(
                f"there is no readable {TOKEN_FILE} in '{data_dir}'", hint="it is in the directory of the first node"
            )
    if text is None:
        text = known.get(TOKEN_VARIABLE)
    if text is None and DATA_DIR_VARIABLE in known:
        text = _read(Path(known[DATA_DIR_VARIABLE]) / TOKEN_FILE)
    text = (text or "").strip()
    if not text.isascii() or not text.replace(" ", "x").isprintable():
        raise ConfigError("the token holds characters that no token has")
    return text


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_BYTES_MAX).decode("ascii", "replace")
    except OSError:
        return None
