import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration import RANGE, calibrate, fit_temperature
from models.config import ModelConfig
from models.metrics import calibration_bins, expected_calibration_error, log_loss
from models.scores import scores


def config(classes: int = 2, output: str = "softmax", temperature: float = 1.0) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "vocab_size": 2,
            "embedding_dim": 1,
            "hidden_size": 1,
            "labels": tuple("abcdefgh"[:classes]),
            "output": output,
            "temperature": temperature,
        }
    )


def drawn(rows: int, model: ModelConfig, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn by the scores of that model."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, spread, (rows, model.num_logits))
    judged = scores(logits, model)
    classes = (judged.cumsum(axis=1) < draw.random((rows, 1))).sum(axis=1)
    return logits, np.minimum(classes, judged.shape[1] - 1)


@pytest.mark.parametrize(("classes", "output"), [(2, "softmax"), (6, "softmax"), (2, "binary")])
@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_by_which_labels_were_drawn_is_found(classes: int, output: str, true: float) -> None:
    model = config(classes, output, true)
    logits, labels = drawn(20_000, model, 2.0)
    assert fit_temperature(logits, labels, model) == pytest.approx(true, rel=0.06)


def test_overconfident_scores_are_mended_on_rows_that_did_not_choose() -> None:
    model = config(3, temperature=3.0)
    logits, labels = drawn(6000, model, 4.0)
    found = calibrate(logits, labels, config(3), seed=0)
    assert found.rows == found.bins.rows.sum() == 3000
    assert found.before > 0.1
    assert found.after < 0.03
    again = np.random.default_rng(0).permutation(6000)[3000:]
    judged = scores(logits[again], config(3, temperature=found.temperature))
    assert found.after == expected_calibration_error(labels[again], judged)


def test_nothing_of_the_judged_half_decides() -> None:
    model = config(temperature=2.0)
    logits, labels = drawn(1000, model, 2.0)
    judged = np.random.default_rng(7).permutation(1000)[500:]
    other = labels.copy()
    other[judged] = 1 - other[judged]
    first, second = (calibrate(logits, each, config(), seed=7) for each in (labels, other))
    assert first.temperature == second.temperature
    assert first.after != second.after


def test_a_single_row_teaches_nothing() -> None:
    found = calibrate(np.array([[2.0, -2.0]]), np.array([1]), config(), seed=0)
    assert (found.temperature, found.rows, found.before) == (1.0, 1, found.after)


@pytest.mark.parametrize("rows", [2, 3, 40])
def test_few_rows_that_are_all_right_do_not_ask_for_certainty(rows: int) -> None:
    logits = np.tile([2.0, -2.0], (rows, 1))
    found = calibrate(logits, np.zeros(rows, int), config(), seed=0)
    assert RANGE[0] < found.temperature <= RANGE[1] * 1.0001
    assert scores(logits, config(temperature=found.temperature)).max() < 1 - 1 / (2 * rows + 8)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.floats(0.2, 8), st.floats(0.3, 4), st.integers(0, 9))
def test_no_temperature_beside_it_is_better(classes: int, spread: float, true: float, seed: int) -> None:
    model = config(classes, temperature=true)
    logits, labels = drawn(5000, model, spread, seed)
    found = fit_temperature(logits, labels, model)

    def loss(temperature: float) -> float:
        return log_loss(labels, scores(logits, config(classes, temperature=temperature)))

    prior = 0.06 / found * np.ptp(logits, axis=1).mean() / 5002  # how much it may weigh between these neighbours
    assert loss(found) <= min(loss(1.05 * found), loss(found / 1.05)) + prior


def test_bins_are_open_below_and_empty_ones_are_zero() -> None:
    judged = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    bins = calibration_bins(np.array([0, 0, 0, 1]), judged, bins=4)
    assert bins.rows.tolist() == [0, 1, 2, 1]
    assert bins.confidence.tolist() == [0, 0.5, 0.75, 1]
    assert bins.accuracy.tolist() == [0, 1, 0.5, 1]
