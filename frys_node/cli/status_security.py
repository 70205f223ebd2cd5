"""``frys-node status --security``: how the cluster is protected, for people."""

from __future__ import annotations

import datetime as dt
from typing import Any

from frys_node.cli.admin import bytes_text, table

VOICES = "classical whatever the identity is; only a member could make use of a forged one"


def text(body: dict[str, Any]) -> str:
    """Lay the picture out; the body's texts are printable already."""
    parts = [_summary(body), _sessions(body), _listeners(body)]
    if body["expelled"]:
        rows = [(entry["name"], entry["id"], _word(entry)) for entry in body["expelled"]]
        parts.append("EXPELLED\n" + _indented(table(rows, ("NAME", "ID", "BY THE WORD OF"))))
    if body.get("strangers"):
        met = [(entry["name"], entry["id"]) for entry in body["strangers"]]
        table_text = _indented(table(met, ("NAME", "ID")))
        fix = "frys-node node revoke ID, or node admit ID if it is yours"
        parts.append(f"NEVER ADMITTED, UNCONFIRMED OR GONE ({fix})\n{table_text}")
    if body["refusals"]:
        rows = sorted(body["refusals"].items(), key=lambda entry: -entry[1])
        parts.append("REFUSED HERE SINCE THE START\n" + _indented(table(rows, ("REASON", "CONNECTIONS"))))
    return "\n\n".join(parts)


def _summary(body: dict[str, Any]) -> str:
    quantum, identity, keys = body["post_quantum"], body["identity"], body["keys"]
    lines = [
        ("node", f"{body['name']} of cluster {body['cluster']}"),
        ("trouble", body["trouble"]),
        ("sessions", _share(quantum)),
        ("identity", f"{identity['identity']}: {identity['summary']}"),
        ("voices", f"{identity['voices']}: {VOICES}" if "voices" in identity else ""),
        ("issuer", _issuer(body.get("issuer"))),
        ("authority", _authority(body["authority"])),
        ("certificates", _certificates(body["certificate"])),
        ("gossip keys", f"epoch {keys['epoch']}: {keys['converged']}/{keys['total']} seal with it{_next(keys)}"),
        ("expelled", _expelled(body)),
        ("join tokens", _tokens(body["tokens"])),
    ]
    return "\n".join(f"{label + ':':14}{value}" for label, value in lines if value)


def _share(quantum: dict[str, Any]) -> str:
    total, good = quantum["of"], quantum["sessions"]
    share = 100.0 if not total else 100.0 * good / total
    told = f"{good}/{total} post-quantum ({share:.0f} %)" if total else "none: this node is alone"
    if quantum["answered"] < quantum["members"]:
        told += f"; only {quantum['answered']}/{quantum['members']} members answered"
    return told


def _issuer(issuer: dict[str, Any] | None) -> str:
    if issuer is None:
        return ""
    told = f"{issuer['name']}, term {issuer['term']}"
    if not issuer["answers"]:
        told += "; does not answer"
    elif not issuer["can_admit"]:
        told += "; does not hold the authority's key"
    if issuer["standby"]:
        told += f"; the key is kept by {', '.join(issuer['standby'])} too"
    return told


def _authority(authority: dict[str, Any]) -> str:
    others = authority["trusted"] - 1
    told = f"; {others} more trusted: one follows another (frys-node ca)" if others else ""
    changed = authority.get("changed_at", 0)
    if changed:
        told += f"; it followed another on {_instant(changed)} (frys-node ca)"
    return f"{authority['id']}{told}"


def _certificates(certificate: dict[str, Any]) -> str:
    issued = f", issued {_instant(certificate['issued_at'])}" if "issued_at" in certificate else ""
    return (
        f"{certificate['left_days']:.0f} days left here{issued}; least in the cluster"
        f" {certificate['least_left_days']:.0f}"
        f" ({certificate['least']})"
    )


def _next(keys: dict[str, Any]) -> str:
    if keys["rotates_at"] is None:
        return "; rotates when asked"
    return f"; rotates next {_instant(keys['rotates_at'])}"


def _expelled(body: dict[str, Any]) -> str:
    count, last_by = len(body["expelled"]), body.get("last_expulsion_by")
    if not count:
        return "nobody"
    told = f"{count}, refused by {body['keys']['refusing']}/{body['keys']['total']} members"
    return told if last_by is None else f"{told}; the last by {_instant(last_by)}"


def _word(entry: dict[str, Any]) -> str:
    return "the authority" if entry["is_signed"] else "the issuer alone, which does not hold the authority's key"


def _tokens(tokens: dict[str, Any]) -> str:
    if tokens["error"]:
        return f"not known: {tokens['error']}"
    return f"{tokens['valid']} valid, {tokens['used']} used up, {tokens['expired']} expired"


def _sessions(body: dict[str, Any]) -> str:
    rows = [
        (
            session["peer"],
            session["group"],
            session["cipher"],
            session["direction"],
            _span(session["age_s"]),
            bytes_text(session["bytes"]),
            None if session["rekey_in_s"] is None else _span(session["rekey_in_s"]),
        )
        for session in body["sessions"]
    ]
    header = ("PEER", "GROUP", "CIPHER", "MADE_BY", "AGE", "CARRIED", "FRESH_KEYS_IN")
    return "SESSIONS OF THIS NODE\n" + _indented(table(rows, header))


def _listeners(body: dict[str, Any]) -> str:
    rows = [(entry["what"], entry["address"], entry["protection"]) for entry in body["listeners"]]
    return "LISTENERS OF THIS NODE\n" + _indented(table(rows, ("WHAT", "ADDRESS", "PROTECTED_BY")))


def _instant(unix_s: float) -> str:
    return f"{dt.datetime.fromtimestamp(unix_s, tz=dt.UTC):%Y-%m-%d %H:%M} UTC"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
