"""Who owns what: the ring, the topology record and routing."""

from __future__ import annotations
