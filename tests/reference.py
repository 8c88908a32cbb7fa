"""The recurrences written out plainly: numpy, float64, one sequence, one token at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.config import ModelConfig

Array = npt.NDArray[np.float64]


def reference_logits(
    config: ModelConfig, weights: Mapping[str, npt.NDArray[np.float32]], tokens: Sequence[int]
) -> Array:
    """Logits ``[num_logits]`` of one sequence, by the formulas of torch.nn.LSTM, GRU and RNN."""
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    rows = exact["embedding.weight"][list(tokens)]
    for layer in range(config.num_layers):
        outputs, finals = [], []
        for suffix in (f"l{layer}", f"l{layer}_reverse")[: config.num_directions]:
            backward = suffix.endswith("_reverse")
            states = _direction(config, exact, suffix, rows[::-1] if backward else rows)
            finals.append(states[-1])
            outputs.append(states[::-1] if backward else states)
        rows = np.concatenate(outputs, axis=1)
    pooled = {
        "last": np.concatenate(finals),
        "last_output": rows[-1],
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
    }
    features = np.concatenate([pooled[kind] for kind in config.pooling])
    logits: Array = exact["linear.weight"] @ features + exact["linear.bias"]
    return logits


def _direction(config: ModelConfig, weights: Mapping[str, Array], suffix: str, rows: Array) -> Array:
    """Outputs ``[tokens, state_size]`` of one direction of one layer, in the order of `rows`."""
    from_input, from_state = weights[f"rnn.weight_ih_{suffix}"], weights[f"rnn.weight_hh_{suffix}"]
    input_bias = weights.get(f"rnn.bias_ih_{suffix}", np.zeros(len(from_input)))
    state_bias = weights.get(f"rnn.bias_hh_{suffix}", np.zeros(len(from_input)))
    state, cell = np.zeros(config.state_size), np.zeros(config.hidden_size)
    outputs = []
    for row in rows:
        x, h = from_input @ row + input_bias, from_state @ state + state_bias
        if config.cell == "lstm":
            i, f, g, o = np.split(x + h, 4)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
            state = _sigmoid(o) * np.tanh(cell)
            if config.proj_size:
                state = weights[f"rnn.weight_hr_{suffix}"] @ state
        elif config.cell == "gru":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x, 3), np.split(h, 3)
            update = _sigmoid(x_z + h_z)
            state = (1 - update) * np.tanh(x_n + _sigmoid(x_r + h_r) * h_n) + update * state
        elif config.cell == "rnn_tanh":
            state = np.tanh(x + h)
        else:
            state = np.maximum(x + h, 0)
        outputs.append(state)
    return np.array(outputs)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
