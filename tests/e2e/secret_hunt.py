"""Looks for secrets where none belongs, in every form in which a careless line could have written them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

CHARS_MIN = 16
"""Shorter forms would be found by chance."""


class Hunt:
    """Secrets by name, and every form of each."""

    def __init__(self) -> None:
        self._forms: dict[str, list[bytes]] = {}

    def add(self, name: str, secret: bytes | str) -> None:
        """Look for this one, too."""
        raw = secret.encode() if isinstance(secret, str) else secret
        forms = [form for form in forms_of(raw) if len(form) >= CHARS_MIN]
        assert forms, name
        self._forms[name] = list(dict.fromkeys(forms))

    @property
    def names(self) -> list[str]:
        """What is looked for."""
        return sorted(self._forms)

    def found_in(self, data: bytes | str) -> list[str]:
        """Names of the secrets that are in there."""
        raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
        return [name for name, forms in self._forms.items() if any(form in raw for form in forms)]

    def found_under(self, root: Path, allowed: Mapping[str, Iterable[str]]) -> list[str]:
        """Return ``secret in path`` for each file that has one; `allowed` names secrets by the end of their path."""
        found: list[str] = []
        for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
            may = {name for end, names in allowed.items() if str(path).endswith(end) for name in names}
            here = self.found_in(str(path)) + self.found_in(path.read_bytes())
            found += [f"{name} in {path.relative_to(root)}" for name in here if name not in may]
        return found


def forms_of(raw: bytes) -> list[bytes]:
    """Return the forms: as it is, escaped by Python, JSON and URLs, hex, base32, base64 wherever it begins."""
    forms = [raw, repr(list(raw))[1:-1].encode(), ",".join(map(str, raw)).encode()]
    escaped = repr(raw)[2:-1].replace("\\'", "'")
    for text in (escaped, escaped.replace("'", "\\'")):
        # As Python shows bytes, and as JSON shows that: a log line holds it so.
        forms += [text.encode(), json.dumps(text)[1:-1].encode()]
    forms += [raw.hex().encode(), raw.hex().upper().encode(), raw.hex(":").encode()]
    forms += [quote(raw, safe="").encode(), json.dumps(raw.decode("latin-1"))[1:-1].encode()]
    forms.append(raw.decode("latin-1").encode())
    base32 = base64.b32encode(raw)[: len(raw) * 8 // 5]
    forms += [base32, base32.lower()]
    for shift in range(3):
        # Within a longer text, such as PEM, the first and last letters have bits of the neighbours.
        first, last = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.append(encode(bytes(shift) + raw)[first:last])
    return forms
