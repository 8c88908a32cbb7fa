"""The same network as an ONNX graph, in float32 and with weights quantised to int8, on ONNX Runtime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from models.network import SequenceClassifier

Array = npt.NDArray[np.float32]


class OnnxRuntime:
    """A session on `threads` cores."""

    def __init__(self, model: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(self, sequences: Sequence[Sequence[int]]) -> Array:
        """Logits ``[sequences, num_logits]``."""
        lengths = np.array([len(sequence) for sequence in sequences], np.int32)
        token_ids = np.zeros((lengths.max(), len(sequences)), np.int64)
        for column, sequence in zip(token_ids.T, sequences, strict=True):
            column[: len(sequence)] = sequence
        logits: Array = self._session.run(None, {"token_ids": token_ids, "lengths": lengths})[0]
        return logits


def export(network: SequenceClassifier) -> bytes:
    """Embedding -> bidirectional LSTM over each sequence's own length -> last states -> linear."""
    config, weights = network.config, network.weights()
    recurrent = {name.removeprefix("rnn."): array for name, array in weights.items() if name.startswith("rnn.")}
    tensors = {
        "embedding": weights["embedding.weight"],
        "W": _both(recurrent, "weight_ih_l0"),
        "R": _both(recurrent, "weight_hh_l0"),
        "B": np.concatenate([_both(recurrent, "bias_ih_l0"), _both(recurrent, "bias_hh_l0")], axis=1),
        "linear.weight": weights["linear.weight"].T.copy(),
        "linear.bias": weights["linear.bias"],
        "features": np.array([-1, config.feature_size]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "token_ids"], ["tokens"]),
        node(
            "LSTM",
            ["tokens", "W", "R", "B", "lengths"],
            ["", "last"],
            hidden_size=config.hidden_size,
            direction="bidirectional",
        ),
        node("Transpose", ["last"], ["by_sequence"], perm=[1, 0, 2]),
        node("Reshape", ["by_sequence", "features"], ["pooled"]),
        node("Gemm", ["pooled", "linear.weight", "linear.bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [
            helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["steps", "sequences"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["sequences"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["sequences", config.num_logits])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized


def quantise(model: bytes) -> bytes:
    """`model` with int8 weights, quantised anew at each product's input."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        quantize_dynamic(source, target)
        return target.read_bytes()


def _both(recurrent: dict[str, Array], name: str) -> Array:
    """A tensor of both directions ``[2, 4 hidden, ...]``, its gates from PyTorch's order i, f, g, o to
    ONNX's i, o, f, c.
    """
    directions: list[Any] = []
    for suffix in ("", "_reverse"):
        i, f, g, o = np.split(recurrent[name + suffix], 4)
        directions.append(np.concatenate([i, o, f, g]))
    return np.stack(directions)
