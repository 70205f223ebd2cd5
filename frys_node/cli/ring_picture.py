"""The ring drawn in a terminal: a circle of letters, one a member, on colours where there are colours.

Pure. The circle is sampled, clockwise from the top: each cell shows who owns the middle of the arc that it stands for.
Virtual nodes lie scattered, so the picture is speckled; what it shows is how the colours share the whole. While a
change is under way the outer ring is the next one. A terminal that is too narrow gets a band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
OTHERS = "*"
"""Mark of every member after the last letter and digit."""

COLOURS = (39, 208, 76, 171, 220, 203, 51, 141, 118, 214, 205, 45)
"""Backgrounds of the 256-colour table that black letters stand out on; they repeat, the letters do not."""

ROWS_MAX = 17
ROWS_MIN = 9
COLUMNS_A_ROW = 2.0
"""A character cell is about twice as high as it is wide."""

BAND_MIN, BAND_MAX = 8, 120


def mark_of(member: int) -> str:
    """Return the letter of a member, by its place in the list."""
    return MARKS[member] if member < len(MARKS) else OTHERS


def paint(mark: str, member: int) -> str:
    """Return a letter on its member's colour."""
    return f"\x1b[30;48;5;{COLOURS[member % len(COLOURS)]}m{mark}\x1b[0m"


def _cell(member: int, *, is_painted: bool) -> str:
    return paint(mark_of(member), member) if is_painted else mark_of(member)


def band(sectors: Sequence[int], width: int, *, is_painted: bool) -> str:
    """Draw the circle cut open at the top, so many characters wide."""
    columns = max(BAND_MIN, min(width, BAND_MAX))
    return "".join(
        _cell(sectors[(2 * column + 1) * len(sectors) // (2 * columns)], is_painted=is_painted)
        for column in range(columns)
    )


def circle(
    sectors: Sequence[int],
    next_sectors: Sequence[int],
    inside: Sequence[str],
    *,
    rows: int = ROWS_MAX,
    is_painted: bool,
) -> list[str]:
    """Draw the circle in an odd number of rows, all of one visible width; `inside` is written into its middle.

    Lines of text that do not fit inside are left out.
    """
    outer = rows / 2
    rings = [(outer - 2.4, outer, sectors)]
    if next_sectors:
        rings = [(outer - 1.5, outer, next_sectors), (outer - 4.0, outer - 2.3, sectors)]
    hole = rings[-1][0]
    columns = math.ceil(rows * COLUMNS_A_ROW)
    first_text = (rows - len(inside)) // 2
    lines = []
    for row in range(rows):
        y = row + 0.5 - outer
        cells = [
            _at((column + 0.5) / COLUMNS_A_ROW - outer, y, rings, is_painted=is_painted) for column in range(columns)
        ]
        text = inside[row - first_text] if 0 <= row - first_text < len(inside) else ""
        room = int(2 * COLUMNS_A_ROW * math.sqrt(max(0.0, hole * hole - y * y)) / 2) * 2 - 2
        if text and len(text) <= room:
            start = (columns - len(text)) // 2
            cells[start : start + len(text)] = list(text)
        lines.append("".join(cells))
    return lines


def _at(x: float, y: float, rings: Sequence[tuple[float, float, Sequence[int]]], *, is_painted: bool) -> str:
    """Return the cell at a place around the middle; `y` grows downwards."""
    radius = math.hypot(x, y)
    for inner, outer, sectors in rings:
        if inner <= radius <= outer:
            turn = math.atan2(x, -y) / (2 * math.pi) % 1.0
            return _cell(sectors[int(turn * len(sectors)) % len(sectors)], is_painted=is_painted)
    return " "
