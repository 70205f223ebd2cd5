"""Supervision, plugins, the bus and configuration cells. Knows no domain."""

from __future__ import annotations
