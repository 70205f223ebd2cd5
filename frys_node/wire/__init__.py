"""Bytes: one MessagePack codec, length-prefixed frames, protocol versions."""

from __future__ import annotations
