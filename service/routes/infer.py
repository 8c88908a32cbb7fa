"""Inference by the Open Inference Protocol V2: tensors to sequences, logits to tensors."""

import time
from collections.abc import Iterator

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from service import tensors
from service.errors import InvalidContent
from service.repository import Model
from service.routes.call import Call, Serving, urgent
from service.schemas.bulk import check_bulk
from service.schemas.predict import Vocabulary, batch_flaws
from service.schemas.shared import parse
from service.schemas.v2 import OUTPUTS, InferRequest, InputTensor, OutputTensor, RequestParameters
from service.tensors import Tensor
from service.texts import all_readable
from service.verdict import verdicts

LENGTH = "Inference-Header-Content-Length"


class Inference(Call):
    """One request to infer, by whatever model it will turn out to be for."""

    def __init__(self, request: Request, serving: Serving) -> None:
        super().__init__(request, serving)
        self._began = time.monotonic()
        self._settings = serving.settings
        self._header_length = request.headers.get(LENGTH)
        self.sequences = 0
        self._decoding = self._encoding = 0.0

    async def infer(self, body: bytes, model: Model) -> Response:
        """The reply. Raises InvalidContent, NotJSON, and as `Call.answer` does."""
        began = time.monotonic()
        header, raw = tensors.split(body, self._header_length)
        check_bulk(header, self._settings.max_sequences, self._settings.max_tokens)
        asked = parse(InferRequest, header)
        self._heed(asked.parameters)
        token_ids = await self._token_ids(asked, raw, model)
        self.sequences = len(token_ids)
        self._decoding = time.monotonic() - began
        logits = await self.answer(model, token_ids)
        began = time.monotonic()
        document = {"model_name": model.name, "model_version": str(model.version)}
        if asked.id is not None:
            document["id"] = asked.id
        content, length = tensors.join(document, _outputs(asked, logits, model))
        self._encoding = time.monotonic() - began
        if length is None:
            return self.respond(content, "application/json")
        return self.respond(content, "application/octet-stream", {LENGTH: str(length)})

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def seconds(self) -> dict[str, float]:
        """Where its time went, by the names of Triton's statistics."""
        return {
            "success": self.elapsed,
            "queue": self._queue,
            "compute_input": self._decoding,
            "compute_infer": self._compute,
            "compute_output": self._encoding,
        }

    def _heed(self, parameters: RequestParameters) -> None:
        """A deadline and a priority in the body are as good as those in the headers."""
        if parameters.timeout > 1000 * self._settings.timeout_ms:
            most = f"{1000 * self._settings.timeout_ms} microseconds (LSTMSERVE_TIMEOUT_MS)"
            raise InvalidContent(f"#/parameters/timeout: must be at most {most}")
        if parameters.timeout:
            self._deadline = min(self._deadline, self._began + parameters.timeout / 1e6)
        if parameters.priority:
            self._urgent = urgent(self._request, parameters.priority == 1, "#/parameters/priority")

    async def _token_ids(self, asked: InferRequest, raw: memoryview, model: Model) -> list[list[int]]:
        """The sequences, without padding."""
        pieces = tensors.shares([tensor.parameters.binary_data_size for tensor in asked.inputs], raw)
        given = {}
        for tensor, piece in zip(asked.inputs, pieces, strict=True):
            self._admit(tensor)
            given[tensor.name] = (tensor, tensor.data or [] if piece is None else piece)
        if "text" in given:
            tensor, data = given["text"]
            texts = tensors.texts("text", tensor.shape, data)
            encoded = await self.encode(model, texts, asked.parameters.truncate)
            return [each.token_ids for each in all_readable(encoded, "input text[{}]".format)]
        vocabulary = Vocabulary(model.config.vocab_size, model.config.pad_id, model.config.max_length)
        lengths = _integers(*given["lengths"], 1).ravel() if "lengths" in given else None
        return _sequences(_integers(*given["token_ids"], 0), lengths, vocabulary)

    def _admit(self, tensor: InputTensor) -> None:
        """Raises InvalidContent for a tensor with more rows, or longer ones, than the service takes."""
        rows, columns = (*tensor.shape, 1)[:2]
        if rows > self._settings.max_sequences:
            limit = f"{self._settings.max_sequences} are taken (LSTMSERVE_MAX_SEQUENCES): send several requests"
            raise InvalidContent(f"input {tensor.name}: has {rows} rows, at most {limit}")
        if columns > self._settings.max_tokens:
            limit = f"{self._settings.max_tokens} are taken (LSTMSERVE_MAX_TOKENS): shorten the sequences"
            raise InvalidContent(f"input {tensor.name}: has rows of {columns} token ids, at most {limit}")


def _integers(tensor: InputTensor, data: list[object] | memoryview, least: int) -> tensors.Integers:
    values = tensors.integers(tensor.name, tensor.datatype, tensor.shape, data)
    if values.min() < least:
        index = list(map(int, np.unravel_index(values.argmin(), values.shape)))
        raise InvalidContent(f"input {tensor.name}{index}: {values.min()} is below {least}")
    return values


def _sequences(rows: tensors.Integers, lengths: tensors.Integers | None, vocabulary: Vocabulary) -> list[list[int]]:
    """The rows ``[rows, columns]`` without their padding, held to the rules of ``/predict`` all at once.

    Raises InvalidContent with the first flaw of the first row that has one.
    """
    count, columns = rows.shape
    sent = lengths is not None
    real = rows != vocabulary.pad_id
    ends = np.where(real.any(axis=1), columns - real[:, ::-1].argmax(axis=1), 0)
    kept = ends if lengths is None else lengths
    if len(kept) != count:
        raise InvalidContent(f"input lengths: has {len(kept)} entries for {count} rows of token_ids")
    misplaced = ends > kept if sent else np.count_nonzero(real, axis=1) != ends
    most = min(columns, vocabulary.max_length)
    wrong = misplaced | (rows.max(axis=1) >= vocabulary.size) | (kept < 1) | (kept > most)
    if wrong.any():
        number = int(wrong.argmax())
        row, length = rows[number].tolist(), int(kept[number])
        (name, _, *column), message = next(batch_flaws([row], [length], sent, vocabulary))
        raise InvalidContent(f"input {name}{[number, *column]}: {message}")
    return [row[:length].tolist() for row, length in zip(rows, kept, strict=True)]


def _outputs(asked: InferRequest, logits: list[list[float]], model: Model) -> Iterator[tuple[Tensor, bool]]:
    """The tensors that are wanted, and whether as bytes."""
    found = verdicts(logits, model.config)
    rows = {"logits": logits, "probabilities": [list(verdict.scores.values()) for verdict in found]}
    for wanted in asked.outputs or [OutputTensor(name=name) for name in OUTPUTS]:
        binary = wanted.parameters.binary_data
        if wanted.name == "labels":
            tensor = Tensor("labels", (len(found),), [verdict.label for verdict in found])
        else:
            values = np.array(rows[wanted.name], np.float32)
            tensor = Tensor(wanted.name, values.shape, values)
            if count := wanted.parameters.classification:
                tensor = tensors.classes(wanted.name, values, count, model.config.labels)
        yield tensor, asked.parameters.binary_data_output if binary is None else binary
