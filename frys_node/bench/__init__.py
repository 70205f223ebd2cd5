"""Benchmark scenarios behind `frys-node bench`."""

from __future__ import annotations
