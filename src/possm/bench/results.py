"""What a job of a bench is, and the file in which it ends."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from possm.data.files import atomic_path
from possm.errors import ConfigError

Row = dict[str, Any]
"""One row of a table, as JSON has it."""
OK, FAILED = "ok", "failed: "
"""What the status of a row is, or begins with."""
NAME = re.compile(r"[\w.+=-]{1,180}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job. It is sent to another process, so everything in it must be picklable."""

    name: str
    """Of its files, so of letters, digits and ``. _ + = -``; no two jobs of a bench share one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """All that its result depends on, configs too; a result of other parameters is refused."""
    expected: tuple[Row, ...] = ({},)
    """The rows it is to make, as far as they are known before; if it fails they stand in the table."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError("not a name for a job", got=self.name, wanted="letters, digits and . _ + = -")


def result_path(out: Path, job: Job) -> Path:
    """The file in which it ends."""
    return out / "jobs" / f"{job.name}.json"


def job_folder(out: Path, job: Job) -> Path:
    """Its own folder."""
    return out / "runs" / job.name


def read_result(out: Path, job: Job) -> dict[str, Any]:
    """What it ended with: name, parameters, rows."""
    return json.loads(result_path(out, job).read_text(encoding="utf-8"))


def write_result(out: Path, job: Job, text: str) -> None:
    """Put `result_text` in its place, whole or not at all."""
    with atomic_path(result_path(out, job)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def result_text(job: Job, rows: Sequence[Row]) -> str:
    """A result as JSON; rows that JSON cannot hold are an error of the job that made them."""
    made = {"name": job.name, "parameters": plain(job.parameters), "rows": plain(rows)}
    return json.dumps(made, indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """As JSON gives it back: a tuple is a list, a config a dict with its class, what is not finite null."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return plain({"class": type(value).__name__, **fields})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def failed_rows(job: Job, cause: str) -> list[Row]:
    """The rows of a job that came to nothing."""
    return [{**row, "status": FAILED + " ".join(cause.split())} for row in job.expected]
