"""How the mouth moves through a sentence: articulator positions that blend from phoneme to phoneme.

Every phoneme has a target for some articulators and cares little about the others. The position of an
articulator at any time is the average of the targets around, weighted by how near they are and how much they
care (the dominance functions of Cohen & Massaro 1993): so a B between two U is made with rounded lips, and
fast speech undershoots its targets. Numbers are relative (0 at rest, about +-1 at the extremes), after the
features of phonetics textbooks (Ladefoged & Johnson, A Course in Phonetics).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from possm.data.phonemes import SILENCE

ARTICULATORS = (
    "jaw_open",
    "lips_open",
    "lips_forward",
    "tip_up",
    "tip_forward",
    "body_up",
    "body_forward",
    "velum_open",
    "voice",
)
"""What the positions are of: jaw, lips, tip and body of the tongue, velum, larynx."""

CARELESS = 0.08  # weight of a target that a phoneme does not care about: it drifts to the rest position
NARROW, CLOSED, OPEN = 0.7, 1.0, 0.4  # constrictions of fricatives, stops and approximants
FAINT = 1e-3  # weight of the rest position: it holds where no phoneme is near
BLEND, INERTIA_S = (
    0.35,
    0.03,
)  # width of the influence of a phoneme: a part of its duration, and a bit at least

# vowels: height and frontness of the tongue, rounding of the lips; diphthongs go from one to another
_VOWELS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "IY": ((1.0, 1.0, 0.0),),
    "IH": ((0.6, 0.7, 0.0),),
    "EH": ((0.0, 0.6, 0.0),),
    "AE": ((-0.6, 0.7, 0.0),),
    "AA": ((-1.0, -0.5, 0.0),),
    "AO": ((-0.4, -0.9, 0.6),),
    "AH": ((-0.3, 0.0, 0.0),),
    "UH": ((0.5, -0.5, 0.4),),
    "UW": ((0.9, -0.8, 1.0),),
    "ER": ((0.2, -0.2, 0.3),),
    "EY": ((0.2, 0.7, 0.0), (0.8, 0.9, 0.0)),
    "AY": ((-0.9, -0.2, 0.0), (0.6, 0.8, 0.0)),
    "OW": ((0.0, -0.7, 0.6), (0.6, -0.8, 1.0)),
    "AW": ((-0.9, -0.1, 0.0), (0.5, -0.7, 0.9)),
    "OY": ((-0.3, -0.8, 0.8), (0.6, 0.8, 0.0)),
}

# consonants: place, degree of the constriction, voice, velum
_CONSONANTS: dict[str, tuple[str, float, float, float]] = {
    "P": ("lips", CLOSED, -1, 0),
    "B": ("lips", CLOSED, 1, 0),
    "M": ("lips", CLOSED, 1, 1),
    "F": ("teeth", NARROW, -1, 0),
    "V": ("teeth", NARROW, 1, 0),
    "TH": ("between", NARROW, -1, 0),
    "DH": ("between", NARROW, 1, 0),
    "T": ("ridge", CLOSED, -1, 0),
    "D": ("ridge", CLOSED, 1, 0),
    "N": ("ridge", CLOSED, 1, 1),
    "S": ("ridge", NARROW, -1, 0),
    "Z": ("ridge", NARROW, 1, 0),
    "L": ("side", CLOSED, 1, 0),
    "SH": ("behind", NARROW, -1, 0),
    "ZH": ("behind", NARROW, 1, 0),
    "CH": ("behind", CLOSED, -1, 0),
    "JH": ("behind", CLOSED, 1, 0),
    "R": ("curled", OPEN, 1, 0),
    "Y": ("palate", OPEN, 1, 0),
    "K": ("soft", CLOSED, -1, 0),
    "G": ("soft", CLOSED, 1, 0),
    "NG": ("soft", CLOSED, 1, 1),
    "W": ("rounded", OPEN, 1, 0),
    "HH": ("glottis", OPEN, -0.5, 0),
}

# what a constriction of degree 1 asks of the articulators it cares about
_PLACES: dict[str, dict[str, float]] = {
    "lips": {"lips_open": -1.0, "jaw_open": -0.2},
    "teeth": {"lips_open": -0.9, "lips_forward": -0.5, "jaw_open": -0.1},
    "between": {"tip_up": 0.6, "tip_forward": 1.3, "jaw_open": 0.0},
    "ridge": {"tip_up": 1.0, "tip_forward": 0.6, "jaw_open": -0.3},
    "side": {"tip_up": 1.0, "tip_forward": 0.5, "body_up": -0.6, "body_forward": -0.5},
    "behind": {"tip_up": 0.9, "tip_forward": -0.1, "body_up": 0.7, "lips_forward": 0.8, "jaw_open": -0.4},
    "curled": {"tip_up": 1.2, "tip_forward": -1.5, "lips_forward": 1.0},
    "palate": {"body_up": 2.6, "body_forward": 2.5, "lips_forward": -0.4},
    "soft": {"body_up": 1.2, "body_forward": -0.7},
    "rounded": {"lips_forward": 2.5, "lips_open": -1.2, "body_up": 1.5, "body_forward": -2.0},
    "glottis": {},
}


@dataclass(frozen=True)
class Target:
    """Where a phoneme wants the articulators, and how much it cares; both (articulators,)."""

    position: np.ndarray
    weight: np.ndarray


def _target(wanted: dict[str, float]) -> Target:
    position = np.array([wanted.get(name, 0.0) for name in ARTICULATORS])
    weight = np.array([1.0 if name in wanted else CARELESS for name in ARTICULATORS])
    return Target(position, weight)


def _vowel(height: float, front: float, rounded: float) -> Target:
    return _target(
        {
            "jaw_open": 0.4 - 0.6 * height,
            "lips_open": 0.5 - 0.3 * height - 0.6 * rounded,
            "lips_forward": rounded,
            "body_up": height,
            "body_forward": front,
            "velum_open": 0.0,
            "voice": 1.0,
        }
    )


def _consonant(place: str, degree: float, voice: float, velum: float) -> Target:
    wanted = {name: degree * value for name, value in _PLACES[place].items()}
    return _target({**wanted, "voice": voice, "velum_open": velum})


TARGETS: dict[str, tuple[Target, ...]] = {
    **{name: tuple(_vowel(*shape) for shape in shapes) for name, shapes in _VOWELS.items()},
    **{name: (_consonant(*features),) for name, features in _CONSONANTS.items()},
    SILENCE: (_target({**dict.fromkeys(ARTICULATORS, 0.0), "voice": -0.6}),),
}
"""One target for each phoneme and the silence, two for a diphthong, passed through in order."""

REST = TARGETS[SILENCE][0].position
"""Where the mouth is when nothing is said."""


def articulate(
    phonemes: Sequence[str], duration_s: np.ndarray, times_s: np.ndarray, *, start_s: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (per second) of the `ARTICULATORS`, both (times, articulators).

    Args:
        phonemes: Symbols of `TARGETS`, said one after the other.
        duration_s: (phonemes,) how long each takes.
        times_s: When; before the first phoneme and after the last the mouth is at rest.
        start_s: When the first phoneme begins.
    """
    edges = start_s + np.append(0.0, np.cumsum(duration_s))
    targets = [target for symbol in phonemes for target in TARGETS[symbol]]
    stages = np.array([len(TARGETS[symbol]) for symbol in phonemes])
    stage = np.concatenate([np.arange(number) for number in stages])
    many, lasts_s = np.repeat(stages, stages), np.repeat(duration_s, stages)
    centre_s = np.repeat(edges[:-1], stages) + lasts_s * (stage + 0.5) / many
    width_s = np.hypot(BLEND * lasts_s / many, INERTIA_S)
    weight = np.array([target.weight for target in targets])
    position = np.array([target.position for target in targets])
    away = (times_s[:, None] - centre_s) / width_s
    near = np.exp(-0.5 * away**2)
    slope = -near * away / width_s
    total, total_slope = near @ weight + FAINT, slope @ weight
    value = (near @ (weight * position) + FAINT * REST) / total
    speed = (slope @ (weight * position) - value * total_slope) / total
    return value, speed
