"""Trains a text classifier: ``python -m models.train --data FILE --out models/store/NAME/VERSION``.

On a CPU the same command gives the same weights, byte for byte, whether or not it was interrupted and resumed.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from models.artifact import SUMS, ArtifactError
from models.command import run_main
from models.config import ModelConfig, first_error
from models.corpus import Corpus, file_digest, read_corpus
from models.encoder import Encoder, read_encoder
from models.extras import needs
from models.formats import DataError
from models.held_out import read_held_out
from models.lineage import Making
from models.options import TRAIN, command_line, training_settings
from models.pairs import read_pairs
from models.settings import FILES, SettingsError, TrainingSettings, public
from models.tokenizer import PAD_ID
from models.values import store_folder, written

with needs("train"):
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from models.checkpoint import (
        CheckpointError,
        check_new,
        has_checkpoint,
        load_checkpoint,
        remove_checkpoint,
        working_folder,
    )
    from models.device import DeviceError, choose_device, choose_precision
    from models.loop import Loop, Stop
    from models.processes import Processes, joined, started
    from models.report import hardware
    from models.run import DivergedError
    from models.stages import Stages
    from models.teachers import Scores, teach
    from models.version import write_version


def main(argv: Sequence[str] | None = None, prog: str = TRAIN) -> int:
    """Exit codes: 0 done, 2 the user's error, 130 interrupted. `prog`: how messages call the command."""
    words = sys.argv[1:] if argv is None else argv
    settings: TrainingSettings | None = None
    errors = (SettingsError, DataError, ArtifactError, CheckpointError, DeviceError, DivergedError, OSError)
    processes = started()

    def work() -> None:
        nonlocal settings, prog
        with stop_signals(insist=processes.size == 1) as stop:
            settings = training_settings(words, prog)
            settings.nnodes, settings.nproc_per_node = processes.size // processes.local, processes.local
            if processes.size > 1:
                prog = " ".join(settings.launcher)
            train(settings, Console(stderr=True, quiet=processes.rank > 0), stop, processes)

    def outcome() -> str:
        if settings and has_checkpoint(working_folder(settings.out)):
            given = [word for word in words if word != "--resume"]
            return f"to go on: {prog} {shlex.join(given)} --resume"
        return "" if settings and settings.out.exists() else "nothing was written"

    return run_main(prog, work, errors, outcome)


def train(settings: TrainingSettings, console: Console, stop: Stop, processes: Processes) -> None:
    """Writes the version `settings.out`; raises one of `main`'s errors."""
    check_out(settings)
    device, encoder = settle(settings)
    names = ", ".join(path.name for option in FILES for path in getattr(settings, option))
    console.print(f"reading {names} …", markup=False, highlight=False, soft_wrap=True)
    inputs = read_digests(settings)
    identity = identify(settings, inputs)
    folder = working_folder(settings.out)
    saved = load_checkpoint(folder, identity) if settings.resume else None
    with joined(processes, device):
        check_alike(processes, identity)
        corpus = read_corpus(settings, encoder)
        encoder = encoder and encoder.reading(corpus.tokenizer)
        pairs = read_pairs(settings.pairs, corpus.labels, corpus.tokenizer)
        held_out = read_held_out(settings, corpus)
        config = make_config(settings, corpus, encoder)
        taught = learn_from(settings.distil, corpus, device, console) if settings.distil else None
        begun = encoder.weights if encoder else None
        stages = Stages(settings, config, corpus, device, encoder=begun, taught=taught, processes=processes)
        done = Loop(settings, identity, folder, processes, stop).run(stages, saved, console)
    if processes.rank:
        return
    languages = [{"unlabelled": len(corpus.unlabelled), "epochs": run.history} for run in stages.language(done)]
    made = Making.model_validate(
        {
            "command": command_line(settings),
            "seconds": round(sum(outcome.seconds for outcome in done), 1),
            "hardware": hardware(settings),
            "files": [file for given in inputs.values() for file in given],
            "language": languages[0] if languages else None,
        }
    )
    made_by = [*(encoder.made_by if encoder else ()), made]
    write_version(settings, config, corpus, pairs, held_out, stages.classes(done), made_by)
    console.print(written(settings.out), markup=False, highlight=False, soft_wrap=True)
    remove_checkpoint(folder)


def settle(settings: TrainingSettings) -> tuple[torch.device, Encoder | None]:
    """Makes the settings what they come to on this machine; gives the device and what there is to begin with.

    Raises ArtifactError, DeviceError or SettingsError.
    """
    encoder = read_encoder(settings.encoder, settings) if settings.encoder else None
    if encoder:
        vars(settings).update(encoder.sizes)
    device = choose_device(settings.device, settings.nproc_per_node)
    settings.device, settings.precision = device.type, choose_precision(settings, device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings.threads = torch.get_num_threads()
    if settings.learns_language and settings.bidirectional and settings.num_layers > 1:
        raise SettingsError(
            f"{settings.num_layers} layers in both directions cannot be pretrained: the second would see what is to "
            "be foretold; give --num-layers 1 or --no-bidirectional, or --pretrain-epochs 0"
        )
    return device, encoder


def check_alike(processes: Processes, identity: dict[str, Any]) -> None:
    """Raises SettingsError, in all of them, where they would not train the same."""
    for rank, other in enumerate(processes.of_all(identity)):
        for name in identity:
            if other[name] != identity[name]:
                raise SettingsError(
                    f"process {rank} has another --{name.replace('_', '-')} than process {processes.rank}"
                )


def check_out(settings: TrainingSettings) -> None:
    """Raises SettingsError, or CheckpointError, where the version could not be written."""
    out = settings.out
    if out.exists():
        raise SettingsError(f"{out}: exists already; versions never change: give --out the next number")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SettingsError(f"{out}: {parent} is not a folder that may be written to; give another --out")
    if not settings.resume:
        check_new(working_folder(out))


def read_digests(settings: TrainingSettings) -> dict[str, list[tuple[str, str]]]:
    """By their options the names and SHA-256 digests of all files and versions that are read. Raises DataError."""
    inputs = {
        option: [(path.name, file_digest(path, f"--{option}")) for path in getattr(settings, option)]
        for option in FILES
    }
    for option, folders in (("encoder", settings.begun), ("distil", settings.distil)):
        inputs[option] = [
            (f"{store_folder(folder)}/{SUMS}", file_digest(folder / SUMS, f"--{option}")) for folder in folders
        ]
    return inputs


def identify(settings: TrainingSettings, inputs: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """What has to be the same for a checkpoint to be gone on from; `inputs` as `read_digests` gives them."""
    told = {option: [digest for _, digest in given] for option, given in inputs.items() if option != "test"}
    identity = public(settings) | told
    del identity["weights"]  # says how they are written once they are trained
    return identity


def make_config(settings: TrainingSettings, corpus: Corpus, encoder: Encoder | None = None) -> ModelConfig:
    """Raises SettingsError."""
    values = {name: value for name, value in vars(settings).items() if name in ModelConfig.model_fields}
    values |= {"vocab_size": corpus.tokenizer.vocab_size, "labels": corpus.labels, "pad_id": PAD_ID}
    if encoder:
        values |= {"vocab_size": encoder.config.vocab_size, "pad_id": encoder.config.pad_id}
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        message = first_error(error, lambda field: f"--{field.split('.')[0].replace('_', '-')}")
        raise SettingsError(message) from None


def learn_from(teachers: Sequence[Path], corpus: Corpus, device: torch.device, console: Console) -> Scores:
    """What the teachers say of the corpus's texts. Raises ArtifactError."""
    columns = (TextColumn("teachers"), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(teachers) * len(corpus.texts))
        return teach(
            teachers, corpus.labels, corpus.texts, device, on_batch=lambda texts: progress.advance(task, texts)
        )


@contextlib.contextmanager
def stop_signals(*, insist: bool = True) -> Iterator[Stop]:
    """SIGINT and SIGTERM interrupt at once, or where they are deferred and one may `insist`, the second of them does.

    What starts several processes may tell each of them twice.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if not stop.deferring or (stop.requested and insist):
            raise KeyboardInterrupt
        if not stop.requested:
            again = b"; again to stop at once" if insist else b""
            os.write(2, b"\nstopping after this step" + again + b"\n")  # print may be what was interrupted
        stop.requested = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
