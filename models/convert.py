"""Brings in a classifier made elsewhere: ``python -m models.convert WEIGHTS --labels a,b --pooling last --out FOLDER``.

WEIGHTS is a state_dict of an embedding, an LSTM, GRU or RNN and a linear, a file of torch.save or safetensors. It is
read as plain data: nothing in it is executed.
"""

import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from pydantic import ValidationError

from models.arguments import Arguments, conversion
from models.artifact import CARD, Artifact, ArtifactError, GoldenCase, write_artifact
from models.command import run_main
from models.config import ModelConfig
from models.extras import needs
from models.state_dict import Options, StateDictError, identify
from models.tokenizer import Tokenizer
from models.values import store_folder, written

with needs("torch"):
    from models.golden import golden_cases
    from models.network import SequenceClassifier
    from models.weights_file import float32_weights, is_safetensors, load_state_dict

PROG = "python -m models.convert"
PADS = ("<pad>", "[PAD]", "<PAD>", "[pad]")
"""Usual spellings of the pad token."""


class ConvertError(ValueError):
    """A file that cannot be brought in; the message names it, the reason and the remedy."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def convert(arguments: Arguments) -> None:
    """Reads the weights, writes the version and says what was read. Raises ConvertError or ArtifactError."""
    path = arguments.weights
    content = _read(path)
    options = Options(**{name: getattr(arguments, name) for name in Options._fields})
    try:
        tensors = load_state_dict(content)
        identified = identify({name: tuple(tensor.shape) for name, tensor in tensors.items()}, options)
        config = identified.config
        weights = float32_weights(tensors, identified)
    except StateDictError as error:
        raise ConvertError(path, str(error)) from error
    tokenizer = read_tokenizer(arguments.tokenizer, config) if arguments.tokenizer else None
    golden = _golden(path, SequenceClassifier.from_weights(config, weights), tokenizer)
    card = model_card(arguments, content, config)
    write_artifact(
        arguments.out, Artifact(config, weights, tokenizer, golden), extras={CARD: card.encode(errors="replace")}
    )
    print(f"read {path}: {describe(config)}")
    for name, shape in config.tensor_shapes().items():
        print(f"  {name} {list(shape)} from {identified.names.get(name, 'nowhere: zeros')}")
    served = "texts and token ids" if tokenizer else "token ids only: no --tokenizer was given"
    print(f"{written(arguments.out)}; serves {served}; {len(golden)} golden cases")


def read_tokenizer(path: Path, config: ModelConfig) -> Tokenizer:
    """A tokenizer whose ids lie within the embedding and whose pad token is the model's. Raises ConvertError."""
    content = _read(path)
    try:
        document = content.decode()
        tokenizer = Tokenizer.from_json(document)
    except ValueError as error:
        raise ConvertError(path, str(error)) from error
    if tokenizer.vocab_size > config.vocab_size:
        raise ConvertError(
            path, f"gives token ids up to {tokenizer.vocab_size - 1}, but the embedding has {config.vocab_size} rows"
        )
    pipeline = tokenizers.Tokenizer.from_str(document)
    unknown = getattr(pipeline.model, "unk_token", None)
    if unknown and pipeline.token_to_id(unknown) is None:
        raise ConvertError(path, f"has no id for its unknown token {unknown}: add it, or texts with new words fail")
    if pipeline.padding:
        pads = {pipeline.padding["pad_id"]}
    else:
        pads = {pipeline.token_to_id(token) for token in PADS} - {None}
    if pads and config.pad_id not in pads:
        raise ConvertError(path, f"its pad token has id {min(pads)}, but --pad-id is {config.pad_id}: they must agree")
    if added := pipeline.num_special_tokens_to_add(is_pair=False):
        raise ConvertError(
            path,
            f"adds {added} special tokens to a text, which serving does not: if the model was trained without them, "
            "set post_processor to null in a copy of the file",
        )
    return tokenizer


def describe(config: ModelConfig) -> str:
    """Cell and sizes in one line."""
    directions = "bidirectional" if config.bidirectional else "one direction"
    bias = "with bias" if config.bias else "without bias"
    projection = f" projected to {config.proj_size}" if config.proj_size else ""
    return (
        f"{config.cell}, layers: {config.num_layers}, {directions}, {bias}, hidden size {config.hidden_size}"
        f"{projection}, embedding {config.vocab_size} x {config.embedding_dim}, logits: {config.num_logits}"
    )


def model_card(arguments: Arguments, content: bytes, config: ModelConfig) -> str:
    """Where a version comes from, in Markdown; `content` is that of the weights' file; files by their names alone."""
    form = "safetensors" if is_safetensors(content) else "torch.save"
    words = ["python", "-m", "models.convert", arguments.weights.name]
    for name, value in vars(arguments).items():
        if name not in ("weights", "out") and value is not None:
            words += [f"--{name.replace('_', '-')}", _word(value)]
    words += ["--out", store_folder(arguments.out)]
    return f"""# {arguments.out.parent.name}, version {arguments.out.name}

Brought in from `{arguments.weights.name}`, a {form} file (sha256 `{hashlib.sha256(content).hexdigest()}`):
{describe(config)}.

```
{shlex.join(words)}
```

```json
{json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False)}
```
"""


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return value.name if isinstance(value, Path) else str(value)


def _golden(path: Path, network: SequenceClassifier, tokenizer: Tokenizer | None) -> list[GoldenCase]:
    try:
        return golden_cases(network, tokenizer)
    except ValidationError as error:
        raise ConvertError(path, "gives logits that are not finite; is --nonlinearity that of the model?") from error
    except ValueError as error:
        raise ConvertError(path, str(error)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConvertError(path, f"cannot be read: {error.strerror}") from error


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Exit codes: 0 done, 2 the user's error, 130 interrupted. `prog`: how messages call the command."""
    return run_main(prog, lambda: convert(conversion(argv, prog)), (ConvertError, ArtifactError, OSError))


if __name__ == "__main__":
    sys.exit(main())
