"""What benches of categories share: rows of accuracies, and the table of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from possm.bench.jobs import OK, Row
from possm.data.files import atomic_path

MEASURED = ("accuracy", "parameters", "train_s")
"""What a row has only once it is done."""


@dataclass(frozen=True)
class ClassReport:
    """Rows of recording, decoder, start, trials_per_class, seed, accuracy, parameters, train_s, status."""

    rows: Sequence[Row]
    by: tuple[str, ...]
    """Columns that tell the lines of the table apart; seeds are averaged."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Lines under the table."""

    def text(self) -> str:
        """A line for each setting: mean accuracy over seeds, and that of each."""
        widths = [max(len(name), *(len(str(row.get(name))) for row in self.rows)) for name in self.by]
        head = "  ".join(f"{name:<{width}}" for name, width in zip(self.by, widths, strict=True))
        lines = [f"{head}  accuracy  each seed"]
        for key in dict.fromkeys(tuple(row.get(name) for name in self.by) for row in self.rows):
            mine = [row for row in self.rows if tuple(row.get(name) for name in self.by) == key]
            named = "  ".join(f"{value!s:<{width}}" for value, width in zip(key, widths, strict=True))
            lines.append(f"{named}  {_accuracies(mine)}")
        failed = [
            f"{row['decoder']}, seed {row['seed']}: {row['status']}" for row in self.rows if not is_ok(row)
        ]
        return "\n".join([*lines, *failed, *self.notes])

    __str__ = text

    def mean(self, **chosen: object) -> float:
        """Mean accuracy of the rows with these values; NaN without one."""
        each = [
            r["accuracy"] for r in self.rows if is_ok(r) and all(r.get(k) == v for k, v in chosen.items())
        ]
        return float(np.mean(each)) if each else math.nan

    def write(self, path: Path) -> None:
        """The rows as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(list(self.rows), indent=1))


def is_ok(row: Row) -> bool:
    """Whether a row has its accuracy."""
    return row.get("status", OK) == OK


def job_name(*words: object) -> str:
    """Words as the name of a job."""
    return re.sub(r"[^\w.+=-]+", "_", "-".join(str(word) for word in words))


def _accuracies(rows: Sequence[Row]) -> str:
    each = [100 * float(row["accuracy"]) for row in rows if is_ok(row)]
    if not each:
        return "failed"
    return f"{np.mean(each):6.1f} %  " + "  ".join(f"{value:.1f}" for value in each)
