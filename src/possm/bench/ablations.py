"""What the parts of POSSM are worth: `possm bench accuracy --ablations`.

Every ablation changes one thing of POSSM-GRU, on every recording where it can be changed, and is compared
with the unchanged decoder on the same recording and seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from possm.baselines.recurrent import RecurrentConfig
from possm.bench.accuracy import write_text
from possm.bench.accuracy_table import NONE, cost_names, costs, distinct, failures, markdown
from possm.bench.jobs import Row
from possm.bench.sources import Source, sources
from possm.bench.trials import BenchConfig, Trial, base_config, run_trials
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.presets import PRESETS, Preset

UNCHANGED = "possm-gru"
"""The preset that is changed."""


@dataclass(frozen=True)
class Change:
    """How a decoder differs from the unchanged one."""

    make: Preset = lambda config: config
    """From its settings to others."""
    fits: Callable[[Source], bool] = lambda source: True
    """Whether a recording allows it."""
    bins_ms: int | None = None
    """See `Trial`."""
    preset: str = UNCHANGED
    """Where its settings come from."""


def _decoder(**settings: Any) -> Preset:
    return lambda config: replace(config, decoder=replace(config.decoder, **settings))


def _dropout(min_units_kept: float) -> Preset:
    return lambda config: replace(config, augment=replace(config.augment, min_units_kept=min_units_kept))


def _counts(config: TrainConfig) -> TrainConfig:
    """POSSM's backbone, windows, optimizer and dropout on z-scored counts: a linear map of the session in
    place of tokens and cross-attention, and one in place of the readout."""
    was = config.decoder
    assert isinstance(was, PossmConfig)
    same = {name: getattr(was, name) for name in ("chunk_ms", "lead_ms", "behaviors", "backbone", "width")}
    same |= {name: getattr(was, name) for name in ("hidden", "num_layers", "dropout")}
    return replace(config, decoder=RecurrentConfig(**same, input_dropout=0.0))


def _lead(lead_ms: int) -> Change:
    return Change(_decoder(lead_ms=lead_ms), lambda source: lead_ms == 0 or lead_ms > source.chunk_ms)


def _has_times(source: Source) -> bool:
    return source.bin_ms is None


CHANGES: dict[str, Change] = {
    "possm-gru+bins10": Change(fits=_has_times, bins_ms=10),
    "possm-gru+bins50": Change(fits=_has_times, bins_ms=50),
    "possm-gru+counts": Change(_counts),
    "gru": Change(preset="gru"),
    **{f"possm-gru+k{k}": Change(_decoder(num_context=k)) for k in (1, 2, 5)},
    "possm-gru+chunk20": Change(
        _decoder(chunk_ms=20), lambda source: source.chunk_ms == 50 and source.takes(20)
    ),
    **{f"possm-gru+lead{lead_ms}": _lead(lead_ms) for lead_ms in (0, 100, 150, 200)},
    **{f"possm-gru+units{kept}": Change(_dropout(kept / 100)) for kept in (80, 50)},
}
"""By the name of the decoder in rows."""

ABLATIONS: dict[str, dict[str, str]] = {
    "When spikes were": {
        "spike times": UNCHANGED,
        "centres of 10 ms bins": "possm-gru+bins10",
        "centres of 50 ms bins": "possm-gru+bins50",
    },
    "What the backbone reads": {
        "cross-attention over spikes": UNCHANGED,
        "binned counts, trained in the same way": "possm-gru+counts",
        "binned counts, tuned as a decoder of its own (`gru`)": "gru",
    },
    "Hidden states an output looks at": {
        "1": "possm-gru+k1",
        "2": "possm-gru+k2",
        "3": UNCHANGED,
        "5": "possm-gru+k5",
    },
    "Length of a chunk": {"50 ms": UNCHANGED, "20 ms": "possm-gru+chunk20"},
    "How far outputs reach beyond the end of the chunk": {
        "0, inside the chunk (the paper's convention, not strictly causal)": "possm-gru+lead0",
        "one chunk": UNCHANGED,
        "100 ms": "possm-gru+lead100",
        "150 ms": "possm-gru+lead150",
        "200 ms": "possm-gru+lead200",
    },
    "Units kept in a training window": {
        "all": UNCHANGED,
        "80 to 100 %": "possm-gru+units80",
        "50 to 100 %": "possm-gru+units50",
    },
}
"""Title -> what a line says -> decoder."""


@dataclass(frozen=True)
class AblationReport:
    """The rows of all ablations, some of them perhaps still to come."""

    rows: tuple[Row, ...]
    """Of trials; one may be in several ablations."""
    groups: Mapping[str, str]
    """Recording -> the group it is averaged in."""

    def to_json(self) -> list[Row]:
        """The rows of every line of every ablation."""
        return [
            {"ablation": title, "value": value, **row}
            for title, lines in ABLATIONS.items()
            for value, decoder in lines.items()
            for row in self._compared(lines)
            if row["decoder"] == decoder
        ]

    def text(self) -> str:
        """As Markdown, a table for each ablation."""
        parts = [
            "POSSM-GRU with one thing changed: mean R2 over recordings and seeds and, in brackets, the mean "
            "difference from the unchanged decoder on the same recording and seed, ± its SD."
        ]
        for title, lines in ABLATIONS.items():
            rows = self._compared(lines)
            if rows:
                parts += [f"### {title}", _table(rows, lines)]
        return "\n\n".join(parts + failures(self.rows))

    def write(self, out: Path) -> None:
        """ablations.json and ablations.md, into a folder."""
        write_text(out / "ablations.json", json.dumps(self.to_json(), indent=1))
        write_text(out / "ablations.md", self.text() + "\n")

    def _compared(self, lines: Mapping[str, str]) -> list[Row]:
        """The rows of one ablation: of recordings where something was changed."""
        mine = [row for row in self.rows if row["decoder"] in lines.values()]
        changed = {row["recording"] for row in mine if row["decoder"] != UNCHANGED}
        return [
            {**row, "group": self.groups[row["recording"]]} for row in mine if row["recording"] in changed
        ]


def bench_ablations(
    recordings: Sequence[str | Path],
    out: str | Path,
    config: BenchConfig,
    *,
    presets: Mapping[str, Preset] = PRESETS,
    progress: Callable[[str], object] = id,
) -> AblationReport:
    """Train every variant on every recording that allows it, as far as not done yet, and write the tables.

    Arguments and errors are those of `bench_accuracy`; in the same folder, trials of that are not repeated.
    """
    out = Path(out)
    found = sources(recordings, out / "data", behavior=config.behavior, progress=progress)
    groups = {source.name: source.group for source in found}
    made = [
        trial
        for seed in config.seeds
        for source in found
        for trial in _trials(source, base_config(source, seed), presets)
    ]

    def show(rows: list[Row]) -> None:
        AblationReport(tuple(rows), groups).write(out)

    report = AblationReport(tuple(run_trials(made, config, out, progress=progress, show=show)), groups)
    report.write(out)
    return report


def _trials(source: Source, config: TrainConfig, presets: Mapping[str, Preset]) -> list[Trial]:
    """The unchanged decoder, and all that the recording allows."""
    changes = {UNCHANGED: Change(), **CHANGES}
    return [
        Trial(source, name, change.make(presets[change.preset](config)), change.bins_ms)
        for name, change in changes.items()
        if change.fits(source) and change.preset in presets
    ]


def _table(rows: Sequence[Row], lines: Mapping[str, str]) -> str:
    columns = distinct((row["group"], row["behavior"]) for row in rows)
    body = []
    for value, decoder in lines.items():
        mine = [row for row in rows if row["decoder"] == decoder]
        cells = [_cell([r for r in rows if (r["group"], r["behavior"]) == c], decoder) for c in columns]
        if mine:
            body.append([value, *cells, *costs(mine)])
    return markdown(["", *(", ".join(column) for column in columns), *cost_names()], body)


def _cell(rows: Sequence[Row], decoder: str) -> str:
    """Mean R2 of one decoder, and its mean difference from the unchanged one."""
    by_trial = {(row["decoder"], row["recording"], row["seed"]): row["r2"] for row in rows}
    pairs = [
        (r2, by_trial.get((UNCHANGED, recording, seed)))
        for (name, recording, seed), r2 in by_trial.items()
        if name == decoder and r2 is not None
    ]
    if not pairs:
        return NONE
    text = f"{np.mean([r2 for r2, _ in pairs]):.3f}"
    differences = [r2 - other for r2, other in pairs if other is not None]
    if decoder == UNCHANGED or not differences:
        return text
    spread = f" ± {np.std(differences):.3f}" if len(differences) > 1 else ""
    return f"{text} ({np.mean(differences):+.3f}{spread})"
