"""The 31 characters of imagined handwriting, and how a pen moves through them.

A letter is a chain of strokes, each a minimum-jerk movement with a bow that begins before the last one has
ended; their sum is smooth (Morasso & Mussa Ivaldi 1982). The characters and their names are those of the
handwriting recordings of Willett et al. 2021: 26 letters, a comma, an apostrophe, a question mark, and the
two signs that stood for a space (>) and a full stop (~).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from possm.config import require

_I_DOT, _STEM = ((0.0, 1.5, 0.0), (0.0, -0.1, 0.0)), (0.0, -1.0, 0.0)
_ROUND, _UP = (0.0, -1.0, -0.5), (0.3, 1.0, -0.25)  # the left half of an o; and up its right side to a stem

STROKES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "a": (_ROUND, _UP, (0.05, -1.0, 0.0)),
    "b": ((0.0, -2.0, 0.0), (0.0, 0.9, 0.0), (0.05, -0.9, 0.5)),
    "c": ((-0.4, 0.1, 0.1), (0.4, -1.1, -0.55)),
    "d": (_ROUND, (0.3, 2.0, -0.1), (0.0, -2.0, 0.0)),
    "e": ((0.8, 0.0, 0.0), (-0.4, 0.5, 0.2), (0.4, -1.0, -0.55)),
    "f": ((-0.5, -0.1, 0.2), (0.0, -1.8, 0.0), (-0.3, 1.0, 0.0), (0.6, 0.0, 0.0)),
    "g": (_ROUND, _UP, (0.0, -1.8, 0.0), (-0.6, 0.2, -0.2)),
    "h": ((0.0, -2.0, 0.0), (0.0, 0.8, 0.0), (0.5, -0.8, 0.35)),
    "i": (_STEM, *_I_DOT),
    "j": ((0.0, -1.6, 0.0), (-0.5, 0.1, -0.2), (0.5, 2.0, 0.0), (0.0, -0.1, 0.0)),
    "k": ((0.0, -2.0, 0.0), (0.6, 1.1, 0.0), (-0.6, -0.6, 0.0), (0.6, -0.5, 0.0)),
    "l": ((0.0, -2.0, 0.0),),
    "m": (_STEM, (0.0, 0.9, 0.0), (0.4, -0.9, 0.3), (0.0, 0.9, 0.0), (0.4, -0.9, 0.3)),
    "n": (_STEM, (0.0, 0.9, 0.0), (0.5, -0.9, 0.35)),
    "o": (_ROUND, (0.0, 1.0, -0.5)),
    "p": ((0.0, -1.7, 0.0), (0.0, 1.6, 0.0), (0.05, -0.9, 0.5)),
    "q": (_ROUND, _UP, (0.0, -1.8, 0.0), (0.3, 0.3, 0.0)),
    "r": (_STEM, (0.0, 0.8, 0.0), (0.5, 0.1, 0.2)),
    "s": ((-0.5, 0.0, 0.1), (0.3, -0.5, -0.25), (-0.4, -0.5, 0.3)),
    "t": ((0.0, -1.7, 0.0), (-0.4, 1.2, 0.0), (0.8, 0.0, 0.0)),
    "u": ((0.0, -0.8, 0.0), (0.6, 0.0, -0.3), (0.0, 0.8, 0.0), (0.05, -1.0, 0.0)),
    "v": ((0.4, -1.0, 0.0), (0.4, 1.0, 0.0)),
    "w": ((0.3, -1.0, 0.0), (0.3, 1.0, 0.0), (0.3, -1.0, 0.0), (0.3, 1.0, 0.0)),
    "x": ((0.7, -1.0, 0.0), (0.0, 1.0, 0.0), (-0.7, -1.0, 0.0)),
    "y": ((0.35, -1.0, 0.0), (0.35, 1.0, 0.0), (-0.7, -2.0, 0.0)),
    "z": ((0.8, 0.0, 0.0), (-0.8, -1.0, 0.0), (0.8, 0.0, 0.0)),
    "greaterThan": ((0.9, -0.4, 0.0), (-0.9, -0.4, 0.0)),
    "comma": ((0.1, -0.15, 0.05), (-0.25, -0.35, 0.05)),
    "apostrophe": ((0.0, -0.5, 0.0),),
    "tilde": ((0.4, 0.0, 0.15), (0.4, 0.0, -0.15)),
    "questionMark": ((0.4, -0.6, 0.45), (-0.3, -0.4, 0.0), (0.0, -0.3, 0.0), (0.0, -0.1, 0.0)),
}
"""Strokes of each character as (right, up, bow to the left of the way), in heights of a small letter."""

CHARACTERS = tuple(STROKES)
"""The 31 classes, in the order of the recordings."""

ABBREVIATIONS = {"greaterThan": ">", "comma": ",", "apostrophe": "'", "tilde": "~", "questionMark": "?"}
"""What the names that are no letters stand for."""

Move = tuple[float, float, tuple[float, float], float]
"""Start (s), duration (s), shift (cm) and bow (cm) of one minimum-jerk movement."""


@dataclass(frozen=True, kw_only=True)
class WritingStyle:
    """How a person writes. Spreads are standard deviations of the logarithm, drawn anew for every letter."""

    height_cm: float = 4.0
    """Height of a small letter."""
    size_spread: float = 0.15
    stroke_s: float = 0.2
    """Time of a stroke as long as a small letter is high; it grows with the root of the length."""
    speed_spread: float = 0.15
    overlap: float = 0.3
    """Part of a stroke that is left when the next begins."""
    reaction_s: float = 0.2
    """Median time from go cue to the first stroke."""
    reaction_spread: float = 0.15
    slant_deg: float = 6.0
    """Standard deviation of the angle by which a letter is turned."""
    wobble: float = 0.08
    """Standard deviation of where each stroke ends, and of its bow, in heights of a small letter."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            positive = name in ("height_cm", "stroke_s", "reaction_s")
            good = math.isfinite(value) and (value > 0 if positive else value >= 0)
            require(good, f"WritingStyle.{name}", value, "above 0" if positive else "0 or more")
        require(self.overlap < 1, "WritingStyle.overlap", self.overlap, "less than 1")


def write_letter(
    character: str, onset_s: float, *, style: WritingStyle, rng: np.random.Generator
) -> tuple[list[Move], float]:
    """The movements of one letter whose first stroke begins at `onset_s`, and when the last one ends."""
    size = style.height_cm * math.exp(style.size_spread * rng.standard_normal())
    slow = math.exp(style.speed_spread * rng.standard_normal())
    slant = math.radians(style.slant_deg) * rng.standard_normal()
    cos, sin = math.cos(slant), math.sin(slant)
    moves, start_s, end_s = [], onset_s, onset_s
    for stroke in STROKES[character]:
        right, up, bow = np.array(stroke) + style.wobble * rng.standard_normal(3)
        time_s = slow * style.stroke_s * math.sqrt(max(math.hypot(*stroke[:2]), 0.1))
        shift = (size * (cos * right - sin * up), size * (sin * right + cos * up))
        moves.append((start_s, time_s, shift, size * bow))
        start_s, end_s = start_s + time_s * (1 - style.overlap), start_s + time_s
    return moves, end_s
