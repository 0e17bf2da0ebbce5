"""What a report draws of a recording: decoded beside true movement, and the spikes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from possm.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """What was decoded of one behavior of one session, beside the truth; every sample that was scored."""

    session: str
    behavior: str
    times_s: np.ndarray
    """(n,) ascending."""
    target: np.ndarray
    """(n, d); NaN where nothing was measured."""
    prediction: np.ndarray
    """(n, d), in the unit of the target."""
    wiener: np.ndarray | None = None
    """(n, d) of the Wiener filter, if there is one."""
    dimensions: tuple[str, ...] = ()
    """Names of the dimensions; x, y, z or dim 1, dim 2, ... if not given."""
    unit: str = ""
    """Physical unit; "" when not known."""

    def __post_init__(self) -> None:
        shape = np.shape(self.target)
        given = {"prediction": self.prediction, "wiener": self.wiener}
        wrong = {name: np.shape(a) for name, a in given.items() if a is not None and np.shape(a) != shape}
        if len(shape) != 2 or wrong or np.shape(self.times_s) != shape[:1]:
            raise ConfigError(
                "the arrays of a trace do not fit together",
                about=self.session,
                got={"times_s": np.shape(self.times_s), "target": shape, **wrong},
                wanted="times (n,), all else (n, d)",
            )
        if not self.dimensions:
            object.__setattr__(self, "dimensions", _names(self.behavior, shape[1]))
        if len(self.dimensions) != shape[1]:
            raise ConfigError("a trace needs one name per dimension", got=self.dimensions, wanted=shape[1])

    def between(self, start_s: float, end_s: float) -> Trace:
        """The samples with ``start_s <= time < end_s``."""
        keep = (self.times_s >= start_s) & (self.times_s < end_s)
        return replace(
            self,
            times_s=self.times_s[keep],
            target=self.target[keep],
            prediction=self.prediction[keep],
            wiener=None if self.wiener is None else self.wiener[keep],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Raster:
    """The spikes of one stretch of one session."""

    session: str
    times_s: np.ndarray
    """(n,) inside the stretch."""
    unit: np.ndarray
    """(n,) row of the unit, 0 to num_units - 1."""
    num_units: int
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if np.shape(self.times_s) != np.shape(self.unit) or not self.start_s < self.end_s:
            raise ConfigError(
                "a raster needs one unit per spike, and a stretch of time",
                about=self.session,
                got=(np.shape(self.times_s), np.shape(self.unit), self.start_s, self.end_s),
            )


def _names(behavior: str, number: int) -> tuple[str, ...]:
    if number == 1:
        return (behavior,)
    return ("x", "y", "z")[:number] if number <= 3 else tuple(f"dim {k + 1}" for k in range(number))
