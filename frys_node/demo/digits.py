"""The demonstration's data: handwritten digits, drawn in the terminal and searched exactly for comparison."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

SHADES = " .:-=+*#%@"
PIXEL_MAX = 16


class Digit(NamedTuple):
    """One image: 64 pixels (0 to 16, row by row) and the digit that was meant."""

    id: int
    label: int
    pixels: tuple[int, ...]


def load() -> list[Digit]:
    """Return all 1,797 digits in file order; ids are line numbers."""
    raw = (resources.files(__package__) / "digits.csv.gz").read_bytes()
    digits = []
    for number, line in enumerate(gzip.decompress(raw).decode().split()):
        *pixels, label = map(int, line.split(","))
        digits.append(Digit(number, label, tuple(pixels)))
    return digits


def split(digits: Sequence[Digit], held_out_every: int = 12) -> tuple[list[Digit], list[Digit]]:
    """Return (stored, held out): every n-th digit is held out, so that both have all ten classes."""
    stored = [digit for digit in digits if digit.id % held_out_every]
    held_out = [digit for digit in digits if digit.id % held_out_every == 0]
    return stored, held_out


def nearest_exact(query: Digit, stored: Sequence[Digit], count: int) -> list[int]:
    """Return the ids of the `count` nearest stored digits by Euclidean distance, ties by id."""
    ranked = sorted(stored, key=lambda other: (math.dist(query.pixels, other.pixels), other.id))
    return [digit.id for digit in ranked[:count]]


def draw(digits: Sequence[Digit], gap: str = "   ") -> list[str]:
    """Return eight lines with the digits side by side, two characters a pixel."""
    return [
        gap.join(
            "".join(SHADES[value * (len(SHADES) - 1) // PIXEL_MAX] * 2 for value in digit.pixels[row * 8 : row * 8 + 8])
            for digit in digits
        )
        for row in range(8)
    ]
