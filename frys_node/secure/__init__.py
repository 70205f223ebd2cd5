"""Identity, certificates, tokens, sealed packets and the TLS profile."""

from __future__ import annotations
