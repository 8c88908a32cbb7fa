"""Trains a text classifier: ``python -m models.train --data FILE --out models/store/NAME/VERSION``.

On a CPU the same command gives the same weights, byte for byte, whether or not it was interrupted and resumed.
"""

import contextlib
import functools
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
from pydantic import ValidationError

from models.artifact import SUMS, Artifact, ArtifactError, write_artifact
from models.calibration import calibrate
from models.command import run_main
from models.config import ModelConfig, first_error
from models.corpus import Corpus, file_digest, read_corpus
from models.extras import needs
from models.formats import DataError
from models.metrics import measure
from models.options import TRAIN, TrainingSettings, public, training_settings
from models.pairs import Pairs, read_pairs, score_pairs
from models.scores import scores
from models.tokenizer import PAD_ID
from models.values import written

with needs("train"):
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from models.batches import predict_classes, predict_sequences
    from models.checkpoint import (
        CheckpointError,
        check_new,
        has_checkpoint,
        load_checkpoint,
        remove_checkpoint,
        save_checkpoint,
        working_folder,
    )
    from models.device import DeviceError, choose_device, choose_precision
    from models.encoder import Encoder, Lineage, read_encoder
    from models.golden import golden_cases
    from models.network import SequenceClassifier
    from models.progress import TrainingProgress
    from models.report import Report, making, report_files
    from models.run import DivergedError, Outcome, Run
    from models.stages import Stages
    from models.teachers import Scores, teach
    from models.tuning import judgement

WARM_UP = 0.05
"""Share of all steps in which the learning rate rises."""


class SettingsError(ValueError):
    """Settings that do not fit together."""


def main(argv: Sequence[str] | None = None, prog: str = TRAIN) -> int:
    """Exit codes: 0 done, 2 the user's error, 130 interrupted. `prog`: how messages call the command."""
    words = sys.argv[1:] if argv is None else argv
    settings: TrainingSettings | None = None
    errors = (SettingsError, DataError, ArtifactError, CheckpointError, DeviceError, DivergedError, OSError)

    def work() -> None:
        nonlocal settings
        with stop_signals() as stop:
            settings = training_settings(words, prog)
            train(settings, Console(stderr=True), stop)

    def outcome() -> str:
        if settings and has_checkpoint(working_folder(settings.out)):
            given = [word for word in words if word != "--resume"]
            return f"to go on: {prog} {shlex.join(given)} --resume"
        return "" if settings and settings.out.exists() else "nothing was written"

    return run_main(prog, work, errors, outcome)


class Stop:
    """What the signals asked for; `requested` is set only while they are deferred."""

    requested = False
    deferring = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """The first signal within only sets `requested`, for whoever looks; at the latest the end interrupts."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        if self.requested:
            raise KeyboardInterrupt


def train(settings: TrainingSettings, console: Console, stop: Stop) -> None:
    """Writes the version `settings.out`; raises one of `main`'s errors.

    KeyboardInterrupt while it trains leaves a checkpoint of the last step when `stop` was requested.
    """
    # Settings
    folder = working_folder(settings.out)
    if settings.out.exists():
        raise SettingsError(f"{settings.out}: exists already; versions never change: give --out the next number")
    parent = next(parent for parent in settings.out.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SettingsError(f"{settings.out}: {parent} is not a folder that may be written to; give another --out")
    if not settings.resume:
        check_new(folder)
    device = choose_device(settings.device)
    settings.device, settings.precision = device.type, choose_precision(settings, device)
    encoder = None
    if settings.encoder:
        encoder = read_encoder(settings.encoder, settings)
        vars(settings).update(encoder.sizes)
    if settings.pretrain and settings.bidirectional and settings.num_layers > 1:
        raise SettingsError(
            f"--num-layers {settings.num_layers} in both directions cannot be pretrained: the second layer would see "
            "what is to be foretold; give --num-layers 1 or --no-bidirectional"
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings.threads = torch.get_num_threads()
    names = ", ".join(path.name for path in (*settings.data, *settings.also, *settings.pretrain))
    console.print(f"reading {names} …", markup=False, highlight=False, soft_wrap=True)
    digests = [(path.name, file_digest(path)) for path in settings.data]
    for option in ("also", "pretrain"):
        digests += [(path.name, file_digest(path, f"--{option}")) for path in getattr(settings, option)]
    identity = public(settings) | {"data": [digest for _, digest in digests]}
    for option, folders in (("distil", settings.distil), ("encoder", [settings.encoder] if settings.encoder else [])):
        identity[option] = [file_digest(folder / SUMS, f"--{option}") for folder in folders]
    del identity["weights"]  # says how they are written once they are trained
    saved = load_checkpoint(folder, identity) if settings.resume else None

    # Data
    corpus = read_corpus(settings, encoder.tokenizer if encoder else None)
    pairs = read_pairs(settings.pairs, corpus.labels)
    config = make_config(settings, corpus, encoder)
    taught = learn_from(settings.distil, corpus, device, console) if settings.distil else None

    # Stages
    stages = Stages(settings, config, corpus, device, encoder=encoder.weights if encoder else None, taught=taught)
    done = [Outcome(**outcome) for outcome in saved["done"]] if saved else []
    next_save = time.monotonic() + settings.checkpoint_seconds

    def save(run: Run | None) -> None:
        state = {"done": [outcome._asdict() for outcome in done], "run": run.state() if run else None}
        save_checkpoint(folder, identity, state)

    def checkpoint(run: Run) -> None:
        nonlocal next_save
        if stop.requested or time.monotonic() >= next_save:
            save(run)
            next_save = time.monotonic() + settings.checkpoint_seconds
        if stop.requested:
            raise KeyboardInterrupt

    while len(done) < len(stages):
        run = stages.run(done)
        if saved and saved["run"]:
            run.load(saved["run"])
        saved = None
        with TrainingProgress(console, run) as progress, stop.deferred():
            train_stage(run, progress, functools.partial(checkpoint, run))
            done.append(run.outcome())
            save(None)  # outlives a version that cannot be written
    lineage = encoder.lineage if encoder else Lineage([], None)
    language, classes = stages.language(done), stages.classes(done)
    if language:
        epochs = [record for outcome in language for record in outcome.history]
        lineage = lineage._replace(pretraining={"unlabelled": len(corpus.unlabelled), "epochs": epochs})
    made = making(settings, sum(outcome.seconds for outcome in done))
    lineage = lineage._replace(made_by=[*lineage.made_by, made])
    write_version(settings, config, corpus, pairs, classes, lineage, digests)
    console.print(written(settings.out), markup=False, highlight=False, soft_wrap=True)
    remove_checkpoint(folder)


def train_stage(run: Run, progress: TrainingProgress, checkpoint: Callable[[], None]) -> None:
    """From where the run is to its end; `checkpoint` is called wherever it can go on from. Raises DivergedError."""
    run.begin()
    per_epoch = len(run.batches())
    total = run.epochs * per_epoch
    while not run.finished():
        run.module.train()
        progress.start_epoch()
        for batch in run.batches()[run.position :]:
            rate = learning_rate(run.learning_rate, run.epoch * per_epoch + run.position, total)
            loss = run.step(batch, rate)
            progress.step(loss, batch.length * len(batch.rows))
            checkpoint()
        progress.end_epoch(run.end_epoch(on_batch=lambda _: checkpoint()))


def learn_from(teachers: Sequence[Path], corpus: Corpus, device: torch.device, console: Console) -> Scores:
    """What the teachers say of the corpus's texts. Raises ArtifactError."""
    columns = (TextColumn("teachers"), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(teachers) * len(corpus.texts))
        return teach(
            teachers, corpus.labels, corpus.texts, device, on_batch=lambda texts: progress.advance(task, texts)
        )


def make_config(settings: TrainingSettings, corpus: Corpus, encoder: Encoder | None = None) -> ModelConfig:
    """Raises SettingsError."""
    values = {name: value for name, value in vars(settings).items() if name in ModelConfig.model_fields}
    values |= {"vocab_size": corpus.tokenizer.vocab_size, "labels": corpus.labels, "pad_id": PAD_ID}
    if encoder:
        values |= {**encoder.sizes, "pad_id": encoder.config.pad_id}
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        message = first_error(error, lambda field: f"--{field.split('.')[0].replace('_', '-')}")
        raise SettingsError(message) from None


def learning_rate(highest: float, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down towards zero (Loshchilov & Hutter 2017); `step` counts from 0."""
    warm_up = WARM_UP * total
    if step < warm_up:
        return highest * (step + 1) / (warm_up + 1)
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))


def write_version(
    settings: TrainingSettings,
    config: ModelConfig,
    corpus: Corpus,
    pairs: Sequence[Pairs],
    runs: Sequence[Outcome],
    lineage: Lineage,
    files: Sequence[tuple[str, str]],
) -> None:
    """The best of the `runs`; metrics and golden cases are those of its weights as they are stored.

    Raises SettingsError where they are too large to be stored so.
    """
    kept = max(runs, key=lambda run: judgement(run.best) if run.best else ())
    dtype = np.dtype(settings.weights).type
    for name, tensor in kept.weights.items():
        if (largest := tensor.abs().max().item()) > float(np.finfo(dtype).max):
            raise SettingsError(
                f"{settings.out}: {name} goes up to {largest:.3g}, more than {settings.weights} holds; what was "
                "trained is kept: finish it by the same command with --resume --weights float32"
            )
    weights = {name: tensor.cpu().numpy().astype(dtype).astype("f4") for name, tensor in kept.weights.items()}
    network = SequenceClassifier.from_weights(config, weights)
    targets = corpus.validation.targets
    logits = predict_sequences(network, corpus.validation.sequences)
    calibration = calibrate(logits, targets, config, settings.seed)
    config = config.model_copy(update={"temperature": calibration.temperature})
    classes = len(corpus.labels)
    report = Report(
        settings=settings,
        config=config,
        metrics=measure(targets, scores(logits, config)),
        calibration=calibration,
        pairs=[score_pairs(each, corpus.tokenizer, lambda texts: predict_classes(network, texts)) for each in pairs],
        runs=runs,
        kept=kept,
        lineage=lineage,
        training_rows=np.bincount(corpus.training.targets, minlength=classes).tolist(),
        validation_rows=np.bincount(targets, minlength=classes).tolist(),
        files=files,
    )
    artifact = Artifact(config, weights, corpus.tokenizer, golden_cases(network, corpus.tokenizer))
    write_artifact(settings.out, artifact, extras=report_files(report), weights_dtype=dtype)


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM interrupt at once, or where they are deferred the second of them does."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested or not stop.deferring:
            raise KeyboardInterrupt
        stop.requested = True
        os.write(2, b"\nstopping after this step; again to stop at once\n")  # print may be what was interrupted

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
