"""Every decoder on every recording under one protocol: `possm bench accuracy`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from possm.bench.accuracy_table import accuracy_figure, accuracy_markdown
from possm.bench.jobs import Row
from possm.bench.sources import sources
from possm.bench.trials import BenchConfig, Trial, base_config, run_trials
from possm.data.files import atomic_path
from possm.evaluation.figures import to_png
from possm.training.preflight import check_names
from possm.training.presets import PRESETS, Preset


@dataclass(frozen=True)
class AccuracyReport:
    """The rows of a table, some of them perhaps still to come."""

    rows: tuple[Row, ...]
    groups: Mapping[str, str]
    """Recording -> the group it is averaged in."""

    def text(self) -> str:
        """As Markdown."""
        return accuracy_markdown(self.rows, self.groups)

    def write(self, out: Path, *, figure: bool = True) -> None:
        """accuracy.json, accuracy.md and accuracy.png, into a folder."""
        write_text(out / "accuracy.json", json.dumps(self.rows, indent=1))
        write_text(out / "accuracy.md", self.text() + "\n")
        if figure:
            with atomic_path(out / "accuracy.png") as temporary:
                temporary.write_bytes(to_png(accuracy_figure(self.rows, self.groups)))


def bench_accuracy(
    recordings: Sequence[str | Path],
    out: str | Path,
    config: BenchConfig,
    *,
    decoders: Sequence[str] = (),
    presets: Mapping[str, Preset] = PRESETS,
    progress: Callable[[str], object] = id,
) -> AccuracyReport:
    """Train every decoder on every recording, as far as that is not done yet, and write the table.

    Args:
        recordings: Native files or folders of them; or public recordings as they come (see `native_files`).
        out: Folder of the table, jobs and runs. The table there is brought up to date as jobs end.
        config: What to decode, seeds, budget, and how much of the machine to take.
        decoders: Names of presets; none named is all.
        presets: What there is to choose from; those of `possm train` unless given.
        progress: Told a line about every job that ends.

    Raises:
        ConfigError: A decoder or recording does not exist, or the folder holds results of other settings.
        RecordingError: A recording cannot be read.
    """
    out = Path(out)
    check_names("decoders", decoders, presets)
    chosen = {name: presets[name] for name in decoders or presets}
    found = sources(recordings, out / "data", behavior=config.behavior, progress=progress)
    groups = {source.name: source.group for source in found}
    made = [
        Trial(source, name, preset(base_config(source, seed)))
        for seed in config.seeds  # seed by seed, so that there is a whole table early on
        for source in found
        for name, preset in chosen.items()
    ]

    def show(rows: list[Row]) -> None:
        AccuracyReport(tuple(rows), groups).write(out, figure=False)

    report = AccuracyReport(tuple(run_trials(made, config, out, progress=progress, show=show)), groups)
    report.write(out)
    return report


def write_text(path: Path, text: str) -> None:
    """A whole file or none."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
