"""Keys, certificates, tokens, TLS and sealed packets: everything that proves who speaks."""

from __future__ import annotations
