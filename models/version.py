"""The version that a training run ends with: the best run's weights, judged as they are stored."""

import functools
from collections.abc import Sequence

import numpy as np

from models.artifact import CARD, Artifact, write_artifact
from models.batches import predict_classes, predict_scores, predict_sequences
from models.calibration import calibrate
from models.card import model_card
from models.config import ModelConfig
from models.corpus import Corpus
from models.golden import golden_cases
from models.held_out import HeldOut, score_held_out
from models.lineage import METRICS, Making
from models.metrics import measure
from models.network import SequenceClassifier
from models.pairs import Pairs, score_pairs
from models.plots import confusion, curves, language_curves, png, reliability
from models.report import Report, metrics_json
from models.run import Outcome
from models.scores import scores
from models.settings import SettingsError, TrainingSettings
from models.tuning import judgement


def write_version(
    settings: TrainingSettings,
    config: ModelConfig,
    corpus: Corpus,
    pairs: Sequence[Pairs],
    held_out: Sequence[HeldOut],
    runs: Sequence[Outcome],
    made_by: Sequence[Making],
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
    predict = functools.partial(predict_scores, network, config)
    report = Report(
        settings=settings,
        config=config,
        metrics=measure(targets, scores(logits, config)),
        calibration=calibration,
        pairs=[score_pairs(each, lambda texts: predict_classes(network, texts)) for each in pairs],
        elsewhere=[score_held_out(each, predict) for each in held_out],
        runs=runs,
        kept=kept,
        made_by=made_by,
        training_rows=np.bincount(corpus.training.targets, minlength=classes).tolist(),
        validation_rows=np.bincount(targets, minlength=classes).tolist(),
    )
    artifact = Artifact(config, weights, corpus.tokenizer, golden_cases(network, corpus.tokenizer))
    write_artifact(settings.out, artifact, extras=report_files(report), weights_dtype=dtype)


def report_files(report: Report) -> dict[str, bytes]:
    """Name and content of what lies beside the weights."""
    files = {
        CARD: model_card(report).encode(),
        METRICS: metrics_json(report).encode(),
    }
    if report.kept.history:
        files["curves.png"] = png(curves(report.kept.history, report.kept.best_epoch))
        files["confusion.png"] = png(confusion(report.metrics, report.config.labels))
        files["reliability.png"] = png(reliability(report.calibration))
    for language in report.languages[-1:]:
        files["language.png"] = png(language_curves(language.epochs))
    return files
