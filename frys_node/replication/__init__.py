"""One engine for all leaderless data: versions, quorums, repair."""

from __future__ import annotations
