"""A file of weights made elsewhere, of torch.save or safetensors, read as plain data: nothing in it is executed."""

import io
import re
import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from models.state_dict import Identified, StateDictError

SAVE = "torch.save(model.state_dict(), 'weights.pt')"
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which a checkpoint keeps its state_dict."""


def is_safetensors(content: bytes) -> bool:
    """Whether the JSON header of the format begins where it has to, after eight bytes of length."""
    return content[8:9] == b"{"


def load_state_dict(content: bytes) -> dict[str, Tensor]:
    """Tensors by name, on the CPU; a checkpoint around them is unwrapped. Raises StateDictError."""
    loaded = _load_safetensors(content) if is_safetensors(content) else _load_torch(content)
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    if not isinstance(loaded, Mapping):
        raise StateDictError(f"holds a {type(loaded).__name__}, not a state_dict: save the weights by {SAVE}")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise StateDictError(f"entry {name!r} is of type {kind}, not a named tensor: save the weights by {SAVE}")
    return dict(loaded)


def float32_weights(tensors: Mapping[str, Tensor], identified: Identified) -> dict[str, npt.NDArray[np.float32]]:
    """The weights under our names; a linear without a bias gets one of zeros. Raises StateDictError."""
    weights = {}
    for name, shape in identified.config.tensor_shapes().items():
        theirs = identified.names.get(name)
        if theirs is None:  # of all weights only a linear's bias may be absent
            weights[name] = np.zeros(shape, np.float32)
            continue
        tensor = tensors[theirs].detach()
        if tensor.is_meta or tensor.layout != torch.strided or not tensor.is_floating_point():
            kind = "meta" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise StateDictError(f"{theirs} is no plain floating-point tensor ({kind})")
        weights[name] = tensor.float().numpy()
        if not np.isfinite(weights[name]).all():
            raise StateDictError(f"{theirs} holds values that are not finite in float32")
    return weights


def _load_safetensors(content: bytes) -> object:
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # besides its own, KeyError and more of a header that does not fit its data
        raise StateDictError("is a damaged safetensors file: fetch or save it again") from error


def _load_torch(content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what cannot be read raises
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make torch stumble over: KeyError, EOFError, RuntimeError, ...
        if "TorchScript" in str(error):
            raise StateDictError(f"is a TorchScript program, which is not run: save the weights by {SAVE}") from error
        if needed := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise StateDictError(
                f"holds more than tensors and would run {needed[1]} when loaded, which is refused: where the model "
                f"can be trusted and loaded, save its weights alone by {SAVE}"
            ) from error
        raise StateDictError(
            f"is no file of torch.save or safetensors, or a damaged one: save the weights by {SAVE}"
        ) from error
