"""The command line: one function per subcommand; nothing else knows it exists.

`possm --help` must answer at once, so this module imports only the standard library; each subcommand
imports what it needs. Annotations are read at run time (they become options), hence no
`from __future__ import annotations` here.
"""

import difflib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from possm import __version__
from possm.errors import ConfigError, PossmError

if TYPE_CHECKING:
    from possm.training.loop import Progress

USAGE_ERROR = 2
INTERRUPTED = 130
DEFAULT_DECODER = "possm-gru"
"""What `possm train` trains."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status: 0, 2 on an error of the user, 130 on Ctrl-C."""
    # Threads that spin for long while they wait make training on few cores many times slower as soon as
    # anything else runs; those that never spin halve it when nothing does. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "200000")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if given[0] == "--version":
        print(f"possm {__version__}")
        return 0
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")
    try:
        _run(given[0], given[1:])
    except (PossmError, OSError) as error:  # OSError: a full disk, a missing folder
        if debug:
            raise
        print(f"possm: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("\npossm: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(name: str, arguments: list[str]) -> None:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        fix = f"did you mean `possm {near[0]}`?" if near else "`possm --help` lists the commands"
        raise ConfigError(f"there is no command {name!r}", fix=fix)
    if name == "bench":
        _run_bench(arguments)
    elif name == "train":
        chosen = [_chosen(option, arguments, default="") for option in ("--decoder", "--recipe")]
        _run_command(_train(*chosen), name, arguments)
    elif name == "finetune":
        _run_command(_finetune(_chosen("--recipe", arguments, default="")), name, arguments)
    elif name == "simulate":
        _run_command(_simulate(_chosen("--task", arguments, default="center_out")), name, arguments)
    elif name == "prepare":
        _run_command(_prepare(_chosen("--format", arguments, default="")), name, arguments)
    else:
        _run_command(COMMANDS[name](), name, arguments)


def _run_bench(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_list("possm bench WHAT [OPTIONS]", _bench.__doc__ or "", BENCHES, "possm bench WHAT"))
        return
    if arguments[0] not in BENCHES:
        raise ConfigError(f"there is no bench {arguments[0]!r}", wanted=f"one of {', '.join(BENCHES)}")
    _run_command(BENCHES[arguments[0]](), f"bench {arguments[0]}", arguments[1:])


def _run_command(command: Callable[..., None], name: str, arguments: list[str]) -> None:
    import tyro

    tyro.cli(command, prog=f"possm {name}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))


def _overview() -> str:
    return _list(
        "possm COMMAND [OPTIONS]", "From a recording of spikes to a live decoder.", COMMANDS, "possm COMMAND"
    )


def _list(usage: str, about: str, makers: "dict[str, Callable[[], Callable[..., None]]]", one: str) -> str:
    lines = [f"usage: {usage}", "", about, ""]
    for name, make in makers.items():
        lines.append(f"  {name:<10} {(make.__doc__ or '').splitlines()[0]}")
    lines += ["", f"`{one} --help` lists the options of one; --debug shows where an error came from."]
    return "\n".join(lines)


def _demo() -> Callable[..., None]:
    """Simulate, train, score and stream, with no data of your own; ends with a report."""

    def demo(*, out: Path = Path("possm-demo"), seed: int = 0) -> None:
        """Simulate a recording, train a decoder on it, score it held out, stream it, and write a report.

        Args:
            out: Folder for everything it makes.
            seed: Of the simulation and the training.
        """
        from possm.demo import run_demo

        print(run_demo(out, seed=seed, progress=_progress_bar(), say=print).text())

    return demo


def _simulate(task: str = "center_out") -> Callable[..., None]:
    """Write simulated recordings: reaching, imagined handwriting, attempted speech."""
    from tyro.conf import arg

    from possm.data.simulations import SIMULATIONS

    if task not in SIMULATIONS:
        raise ConfigError(
            f"there is no task {task!r}", about="--task", wanted=f"one of {', '.join(SIMULATIONS)}"
        )
    simulation = SIMULATIONS[task]

    def simulate(
        config: simulation.config,  # type: ignore[name-defined]
        *,
        out: Path,
        num_sessions: Annotated[int, arg(name="sessions")] = 1,
        num_subjects: Annotated[int, arg(name="subjects")] = 1,
        seed: int = 0,
    ) -> None:
        """Write recordings of a simulated cortex, one file a session.

        --task is center_out, random_target, handwriting or speech. The last two have options of their own:
        `possm simulate --task speech --help`.

        Args:
            config: What to simulate.
            out: Folder for the files.
            num_sessions: Sessions in all, divided over the subjects.
            num_subjects: Subjects, who share the movement code but not the tuning of their units.
            seed: The same seed gives the same recordings.
        """
        from possm.data.formats.hdf5 import write_hdf5

        made = simulation.dataset(config, num_subjects=num_subjects, num_sessions=num_sessions, seed=seed)
        for recording in made:
            path = out / f"{recording.session_id}.h5"
            write_hdf5(recording, path)
            print(f"{path}: {recording!r}")

    return simulate


def _prepare(release: str = "") -> Callable[..., None]:
    """Turn a recording of another format into a native file, and say what was found and dropped."""
    from tyro.conf import Positional, arg

    if release:
        return _prepare_release(release)

    def prepare(
        recording: Positional[Path],
        *,
        out: Path,
        map_name: Annotated[str, arg(name="map")],
    ) -> None:
        """Turn a MATLAB recording into a native file with a train, valid and test split.

        Public releases that need no map have options of their own:
        `possm prepare --format willett-speech --help` (or willett-handwriting).

        Args:
            recording: The file to read.
            out: The .h5 file to write.
            map_name: A shipped map (limblab-binned, contdata95, place-cells, ...) or the path of a TOML file
                that says which field is what; docs/formats.md tells how to write one.
        """
        from possm.data.quality import prepare as prepare_recording

        print(prepare_recording(recording, map_name=map_name, out=out).text())

    return prepare


def _prepare_release(release: str) -> Callable[..., None]:
    """The sessions of a public release that has a reader of its own."""
    from tyro.conf import Positional, arg

    from possm.data.formats.releases import RELEASES

    if release not in RELEASES:
        wanted = f"one of {', '.join(RELEASES)}"
        raise ConfigError(f"there is no format {release!r}", about="--format", wanted=wanted)
    reader = RELEASES[release]

    def prepare(
        recording: Positional[Path],
        config: reader.config,  # type: ignore[name-defined]
        *,
        out: Path,
        release_name: Annotated[str, arg(name="format")] = release,
    ) -> None:
        """Turn the sessions of a public release into native files, with the splits of its papers.

        docs/clinical-data.md says which files and folders are meant, and what becomes of their fields.

        Args:
            recording: A file of the release, or the folder of its sessions.
            config: What to read.
            out: Folder for the .h5 files, called after their sessions.
            release_name: The release.
        """
        from possm.data.quality import prepare_release

        for report in prepare_release(recording, release=release_name, out=out, config=config):
            print(report.text(), flush=True)

    return prepare


def _inspect() -> Callable[..., None]:
    """Say what is in a recording."""
    from tyro.conf import Positional

    def inspect(recordings: Positional[tuple[Path, ...]]) -> None:
        """Say what is in recordings: units, rates, behaviors, intervals, splits, and what looks wrong.

        Args:
            recordings: Native files.
        """
        from possm.data.quality import inspect as describe

        for path in _some(recordings):
            print(describe(path))

    return inspect


def _train(decoder_name: str = "", recipe_name: str = "") -> Callable[..., None]:
    """Train a decoder on recordings."""
    from typing import Literal

    from tyro import MISSING
    from tyro.conf import Positional

    from possm import recipes
    from possm.training.loop import TrainConfig
    from possm.training.presets import PRESETS

    preset = TrainConfig(behavior=("any",))
    if recipe_name:
        preset = _named("recipe", recipe_name, recipes.TRAINING)()
    if decoder_name or not recipe_name:
        preset = _named("decoder", decoder_name or DEFAULT_DECODER, PRESETS)(preset)
    if not recipe_name:
        object.__setattr__(preset, "behavior", MISSING)  # tyro then asks for it

    def train(
        recordings: Positional[tuple[Path, ...]],
        config: TrainConfig = preset,
        *,
        out: Path,
        decoder: Literal[tuple(PRESETS)] = decoder_name or DEFAULT_DECODER,  # type: ignore[valid-type]
        recipe: str = recipe_name,
    ) -> None:
        """Train a decoder on the train split of recordings; one that was interrupted goes on.

        Args:
            recordings: Native files; with --recipe pretrain also the folder of processed brainsets.
            config: The run.
            out: Folder of the run: decoder.safetensors, metrics.jsonl, summary.json.
            decoder: Which; it sets the defaults of all other options to what suits it.
            recipe: A published run (single-co, single-rt, pretrain), or "foundation" for many sessions of
                your own; sets the defaults of all other options. docs/pretraining.md describes them.
        """
        from possm.data.collection import open_recordings
        from possm.training.loop import train as run_training

        del decoder  # it chose the defaults before this function was made
        paths = list(_some(recordings))
        if recipe == "pretrain" and len(paths) == 1 and paths[0].is_dir():
            paths = recipes.pretraining_files(paths[0])
        loaded = open_recordings(paths, skip_bad=config.skip_bad)
        if recipe:
            config = recipes.suited(config, loaded)
        try:
            result = run_training(loaded, config, out, progress=_progress_bar())
        except KeyboardInterrupt:
            print(f"\ninterrupted; the same command goes on from the last validation in {out}")
            raise
        for name, value in result.summary.items():
            print(f"{name:<16} {value:.4g}")
        if result.summary:  # of several processes the first has one
            print(f"decoder          {result.path}")

    return train


def _named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        fix = f"did you mean {near[0]!r}?" if near else None
        raise ConfigError(f"there is no {what} {name!r}", wanted=f"one of {', '.join(known)}", fix=fix)
    return known[name]


def _chosen(option: str, arguments: list[str], *, default: str) -> str:
    """What a command line says of an option that decides what the other options are."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return default


def _finetune(recipe_name: str = "") -> Callable[..., None]:
    """Adapt a trained decoder to new sessions with a little calibration data."""
    from tyro.conf import Positional

    from possm import recipes
    from possm.training.finetune_config import FinetuneConfig

    preset = _named("recipe", recipe_name, recipes.FINETUNING)() if recipe_name else FinetuneConfig()

    def finetune(
        decoder: Positional[Path],
        recordings: Positional[tuple[Path, ...]],
        config: FinetuneConfig = preset,
        *,
        out: Path,
        recipe: str = recipe_name,
    ) -> None:
        """Adapt a decoder to new sessions; a run that was interrupted goes on.

        Args:
            decoder: A .safetensors file.
            recordings: Native files of the new sessions.
            config: How to adapt.
            out: Folder of the run: decoder.safetensors, metrics.jsonl, summary.json.
            recipe: A published run (units-co, units-rt, full-co, full-rt), which sets the defaults of all
                other options; docs/pretraining.md describes them.
        """
        from possm.checkpoint import load_decoder
        from possm.data.collection import open_recordings
        from possm.training.finetune import finetune as run_finetuning

        pretrained = load_decoder(decoder)
        loaded = open_recordings(_some(recordings))
        if recipe:
            config = recipes.suited(config, loaded)
        try:
            result = run_finetuning(pretrained, loaded, config, out, progress=_progress_bar())
        except KeyboardInterrupt:
            print(f"\ninterrupted; the same command goes on from the last validation in {out}")
            raise
        for name, value in result.summary.items():
            print(f"{name:<20} {value:.4g}")
        print(f"{'decoder':<20} {result.path}")

    return finetune


def _evaluate() -> Callable[..., None]:
    """Score a decoder on held-out data, beside a Wiener filter; writes scores.json and report.html."""
    from tyro.conf import Positional

    def evaluate(
        decoder: Positional[Path],
        recordings: Positional[tuple[Path, ...]],
        *,
        out: Path,
        split: str = "test",
        within: str | None = None,
        warmup_s: float = 5.0,
        wiener: bool = True,
    ) -> None:
        """Decode a split causally, chunk by chunk, and score it beside a Wiener filter.

        Args:
            decoder: A .safetensors file.
            recordings: Native files of sessions the decoder knows.
            out: Folder for scores.json and report.html.
            split: "train", "valid" or "test".
            within: Name of evaluation intervals, such as movement_phases.reach_period; only samples in
                them count.
            warmup_s: Decode from this much before a stretch; 0 starts each with an empty state.
            wiener: Fit a Wiener filter on the same split to compare with.
        """
        from possm.checkpoint import load_decoder
        from possm.data.collection import renamed
        from possm.data.formats import load_recording
        from possm.evaluation.assess import assess, write_assessment

        loaded = load_decoder(decoder)
        opened = [load_recording(path, lazy=False) for path in _some(recordings)]
        opened = renamed(opened, loaded.renames, strict=False)
        result = assess(loaded, opened, split=split, within=within, warmup_s=warmup_s, wiener=wiener)
        facts = {"file": str(decoder), "within": within or f"the whole {split} split"}
        report = write_assessment(
            result,
            out,
            decoder=loaded,
            recording=opened[0],
            training=_metrics(decoder.parent / "metrics.jsonl"),
            provenance=facts,
        )
        causal = loaded.config.strictly_causal
        print(result.table())
        print("strictly causal: the value at t from spikes before t" if causal else "the paper's convention")
        for warning in result.warnings:
            print(f"warning: {warning}")
        print(f"report: {report}")

    return evaluate


def _stream() -> Callable[..., None]:
    """Run a decoder live: from a source to a sink."""
    from tyro.conf import Positional

    from possm.streaming.settings import StreamSettings

    def stream(
        decoder: Positional[Path],
        settings: StreamSettings,
        *,
        source: str,
        sink: str,
        session: str | None = None,
        deadline_ms: float = 10.0,
        swap_to: Path | None = None,
        swap_session: str | None = None,
    ) -> None:
        """Run a decoder on a stream of spikes.

        Args:
            decoder: A .safetensors file, or an .onnx file of `possm export`, which needs no torch.
            source: Where spikes come from, such as replay:recording.h5 or replay:recording.h5?speed=1.
            sink: Where predictions go, such as csv:out.csv.
            session: The session to decode as; may be left out if the decoder knows one only.
            deadline_ms: A step that takes longer counts as missed.
            swap_to: Go on with the decoder of this run folder when the run has ended, such as one of possm
                finetune beside the stream; or with a decoder file whenever it is written anew. State and
                clock stay. What is there at the start is not taken.
            swap_session: The session to decode as afterwards; left out, the present one, if the new decoder
                knows it.
            settings: What to do when input is late, missing or on a clock that jumps, and about the machine.
        """
        from possm.streaming.links import open_sink, open_source
        from possm.streaming.live import LiveDecoder
        from possm.streaming.run import run_stream
        from possm.streaming.successor import Successor
        from possm.streaming.watch import Watch

        if swap_to is None and swap_session is not None:
            raise ConfigError("a session to swap to, but no decoder", fix="--swap-to RUN")
        if swap_to is not None and swap_to.suffix != ".onnx":  # now, and not while the stream runs
            try:
                import torch  # noqa: F401
            except ImportError:
                fix = "--swap-to an .onnx file, which `possm export` writes"
                raise ConfigError("a run can only be taken over with torch", got=swap_to, fix=fix) from None
        live = LiveDecoder(decoder, session=session, config=settings.live())
        if "torch" in sys.modules:  # the steps of a stream are too short to be divided over threads
            sys.modules["torch"].set_num_threads(1)
        links, watch = (open_source(source), open_sink(sink)), Watch(deadline_ms=deadline_ms)
        successor = None if swap_to is None else Successor(swap_to, session=swap_session)
        print(run_stream(live, *links, watch, config=settings.run(), successor=successor).text())

    return stream


def _export() -> Callable[..., None]:
    """Write a decoder as an ONNX file, for one session and the fastest steps."""
    from typing import Literal

    from tyro.conf import Positional

    def export(
        decoder: Positional[Path],
        *,
        out: Path,
        session: str | None = None,
        precision: Literal["float32", "int8"] = "float32",
    ) -> None:
        """Write the step of a decoder as an ONNX file that runs without torch.

        Args:
            decoder: A .safetensors file.
            out: The .onnx file to write.
            session: The session whose units it shall decode; may be left out if the decoder knows one only.
            precision: Of the weights. int8 reads a quarter of the memory, which is what a step of the
                large model waits for; docs/realtime.md says what it costs in accuracy.
        """
        from possm.checkpoint import load_decoder
        from possm.streaming.export import export_decoder

        path = export_decoder(load_decoder(decoder), out, session=session, precision=precision)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {precision}")

    return export


def _bench() -> Callable[..., None]:
    """Measure: accuracy of every decoder, latency of every engine, faults of a stream."""
    raise NotImplementedError  # `_run` lists BENCHES instead


def _bench_latency() -> Callable[..., None]:
    """Time per step: percentiles and missed deadlines, engines and backbones side by side."""

    def latency(
        *,
        decoder: Path | None = None,
        peers: bool = False,
        json: Path | None = None,
        steps: int = 2000,
        seconds: float = 20.0,
        realtime: bool = False,
        seed: int = 0,
    ) -> None:
        """Time the step of one chunk, hot and with pauses, over engines, backbones, sizes, spikes and units.

        Args:
            decoder: Time this decoder (.safetensors, or .onnx); left out, random decoders of both sizes of
                the paper and all backbones.
            peers: Time POYO 1.3M of torch_brain (extra "peers") and our baselines as well.
            json: File for the rows.
            steps: Steps of every row; 100,000 for percentiles of the far tail.
            seconds: A row ends after this long, also before its steps are done.
            realtime: With real-time priority, so that other programs do not take the core away.
            seed: Of spikes and random weights.
        """
        from possm.bench.latency import bench_latency
        from possm.bench.latency_cases import LatencyConfig

        config = LatencyConfig(steps=steps, seconds=seconds, peers=peers, realtime=realtime, seed=seed)
        report = bench_latency(config, decoder=decoder, progress=print)
        print(report.text())
        if json is not None:
            report.write(json)

    return latency


def _bench_soak() -> Callable[..., None]:
    """Minutes of simulated stream with faults: does memory grow, is every fault counted?"""
    from typing import Literal

    def soak(
        *,
        minutes: float = 30.0,
        decoder: Path | None = None,
        engine: Literal["torch", "onnx"] | None = None,
        seed: int = 0,
        json: Path | None = None,
    ) -> None:
        """Run a stream on a simulated rig where everything goes wrong, as fast as the machine goes.

        Args:
            minutes: Of simulated time.
            decoder: Run this decoder (.safetensors, or .onnx); left out, the small model with random weights
                and 50 steps a second.
            engine: What runs it; left out, what the file is made for.
            seed: Of spikes and faults.
            json: File for the numbers.
        """
        from possm.bench.soak import SoakConfig, bench_soak
        from possm.errors import StreamError

        config = SoakConfig(minutes=minutes, engine=engine, seed=seed)
        report = bench_soak(config, decoder=decoder, progress=print)
        print(report.text())
        if json is not None:
            report.write(json)
        if not report.passed:
            raise StreamError("the soak test failed", got="see above")

    return soak


def _bench_accuracy() -> Callable[..., None]:
    """Every decoder on every recording under one protocol: held-out R2, and what each decoder costs."""
    from tyro.conf import Positional

    from possm.bench.trials import BenchConfig

    def accuracy(
        recordings: Positional[tuple[Path, ...]],
        config: BenchConfig,
        *,
        out: Path,
        decoders: tuple[str, ...] = (),
        ablations: bool = False,
    ) -> None:
        """Train and score decoders on recordings; one that was interrupted goes on.

        Args:
            recordings: Native files, folders of them, or the folder of the public recordings
                (docs/benchmarks.md), which are prepared first.
            config: What to compare, and how much of the machine to take.
            out: Folder for accuracy.json, accuracy.md and accuracy.png, and for all that was trained.
            decoders: Names as in `possm train --decoder`; none named is all.
            ablations: Instead, change one thing of POSSM-GRU at a time; writes ablations.json and
                ablations.md.
        """
        if ablations and decoders:
            raise ConfigError("--ablations has decoders of its own", got=decoders, fix="leave out --decoders")
        from possm.bench.ablations import bench_ablations
        from possm.bench.accuracy import bench_accuracy

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        if ablations:
            print(bench_ablations(recordings, out, config, progress=say).text())
        else:
            print(bench_accuracy(recordings, out, config, decoders=decoders, progress=say).text())

    return accuracy


def _bench_transfer() -> Callable[..., None]:
    """A pretrained decoder moved to a new session, against decoders trained from scratch there."""
    from possm.bench.transfer import TransferConfig

    def transfer(
        config: TransferConfig,
        *,
        pretrain: tuple[Path, ...] = (),
        target: tuple[Path, ...] = (),
        simulated: bool = False,
        out: Path,
    ) -> None:
        """Pretrain, then adapt to targets and train from scratch there; one that was interrupted goes on.

        Args:
            config: What to compare, and how much of the machine to take.
            pretrain: Native files or folders of them to pretrain on, oldest first.
            target: Native files of sessions to adapt to.
            simulated: Instead, 40 simulated sessions of four subjects, and a fifth subject as the target.
            out: Folder for transfer.json, transfer.md and transfer.png, and for all that was trained.
        """
        from possm.bench.transfer import bench_transfer, simulated_files

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        if simulated:
            pretrain, target = simulated_files(out / "data", progress=say)
        print(bench_transfer(_some(pretrain), _some(target), out, config, progress=say).text())

    return transfer


def _bench_targets() -> Callable[..., None]:
    """The direction of a reach from the delay before it, against naive Bayes (ps4_realdata.mat)."""
    from tyro.conf import Positional

    from possm.bench.targets import TargetsConfig

    def targets(
        recording: Positional[Path],
        config: TargetsConfig,
        *,
        out: Path,
        json: Path | None = None,
        quick: bool = False,
    ) -> None:
        """Train decoders on delay periods and decide the held-out ones 200 and 350 ms into the plan.

        Args:
            recording: ps4_realdata.mat, or the native file that `possm prepare --map reach-delay` made of it.
            config: What to train.
            out: Folder of runs; a bench that was interrupted goes on there.
            json: File for the rows.
            quick: One seed and a few epochs instead, to see whether it runs.
        """
        from possm.bench.targets import bench_targets

        config = TargetsConfig.quick() if quick else config
        _show(bench_targets(recording, out, config, progress=_to_stderr), json)

    return targets


def _bench_handwriting() -> Callable[..., None]:
    """Simulated handwriting: POSSM, GRU and PCA-KNN, from scratch and adapted from reaching monkeys."""
    from possm.bench.handwriting import HandwritingBench

    def handwriting(
        config: HandwritingBench, *, out: Path, json: Path | None = None, quick: bool = False
    ) -> None:
        """Train decoders of imagined characters on a few trials of each.

        Args:
            config: What to compare.
            out: Folder of runs; a bench that was interrupted goes on there.
            json: File for the rows.
            quick: A few characters, sessions and steps instead, to see whether it runs.
        """
        from possm.bench.handwriting import bench_handwriting

        config = HandwritingBench.quick() if quick else config
        _show(bench_handwriting(out, config, progress=_to_stderr), json)

    return handwriting


def _bench_speech() -> Callable[..., None]:
    """Simulated speech: POSSM and the GRU of strided windows, inputs and phases compared."""
    from possm.bench.speech import SpeechBench

    def speech(config: SpeechBench, *, out: Path, json: Path | None = None, quick: bool = False) -> None:
        """Train decoders of phonemes on days that drift, and time a step of the small one.

        Args:
            config: What to compare.
            out: Folder of runs; a bench that was interrupted goes on there.
            json: File for the rows.
            quick: One day, few channels and steps instead, to see whether it runs.
        """
        from possm.bench.speech import bench_speech

        config = SpeechBench.quick() if quick else config
        _show(bench_speech(out, config, progress=_to_stderr), json)

    return speech


def _show(report: Any, json: Path | None) -> None:
    print(report.text())
    if json is not None:
        report.write(json)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


BENCHES: dict[str, Callable[[], Callable[..., None]]] = {
    "targets": _bench_targets,
    "handwriting": _bench_handwriting,
    "speech": _bench_speech,
    "accuracy": _bench_accuracy,
    "transfer": _bench_transfer,
    "latency": _bench_latency,
    "soak": _bench_soak,
}
"""What `possm bench` measures; makers as in COMMANDS."""

COMMANDS: dict[str, Callable[[], Callable[..., None]]] = {
    "demo": _demo,
    "simulate": _simulate,
    "prepare": _prepare,
    "inspect": _inspect,
    "train": _train,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "stream": _stream,
    "export": _export,
    "bench": _bench,
}
"""Makers of the subcommands: each imports what its options need and returns the function that runs."""


def _some(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if not paths:
        raise ConfigError("no recording given", wanted="one or more files")
    return paths


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The training curve beside a decoder, if its run folder is still there."""
    import json

    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _progress_bar() -> "Callable[[Progress], None]":
    """A bar on a terminal; elsewhere one line per validation. Of several processes the first speaks."""
    from tqdm import tqdm

    if int(os.environ.get("RANK", 0)):
        return lambda progress: None
    if not sys.stderr.isatty():
        return _progress_lines
    bar: tqdm = tqdm(unit="step", leave=False)

    def show(progress: "Progress") -> None:
        bar.total = progress.total_steps
        bar.n = progress.step
        if progress.valid_score is not None:
            bar.set_description(f"epoch {progress.epoch}/{progress.epochs} {_valid(progress)}")
        bar.set_postfix_str(f"loss {progress.loss:.3f}", refresh=False)
        bar.update(0)
        if progress.step == progress.total_steps and progress.valid_score is not None:
            bar.close()

    return show


def _valid(progress: "Progress") -> str:
    from possm.evaluation.score import MEASURES

    return f"valid {MEASURES[progress.measure]} {progress.valid_score:.3f}"


def _progress_lines(progress: "Progress") -> None:
    if progress.valid_score is not None:
        print(
            f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"{_valid(progress)}  {progress.eta_s:.0f} s to go",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
