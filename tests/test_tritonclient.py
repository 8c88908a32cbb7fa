"""Triton's own Python client, as it is installed, against a real service: its logits are those of /predict."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.server import Server
from tests.tiny import write_tiny
from tests.v2_page import example, rounded

ROOT = Path(__file__).parents[1]
TOKENS = np.array([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]])
LENGTHS = np.array([4, 3, 1])
TEXTS = ["a good film , very good .", "not good !", "bad"]
FIVE = ("one", "two", "three", "four", "five")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    write_tiny(store / "imdb" / "3")
    write_tiny(store / "five" / "1", seed=1, with_tokenizer=False, labels=FIVE, output="sigmoid", cell="gru")
    write_tiny(store / "binary" / "1", seed=2, output="binary")
    with Server(store) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
async def aio(url: str) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def predicted(url: str, model: str, lengths: bool = False) -> npt.NDArray[np.float32]:
    """What /predict says of TOKENS."""
    body = {"token_ids": TOKENS.tolist()} | ({"lengths": LENGTHS.tolist()} if lengths else {})
    reply = httpx.post(f"{url}/models/{model}/predict", json=body).raise_for_status()
    return np.array(reply.json()["logits"], np.float32)


def tensor(name: str, values: npt.NDArray[Any], binary: bool = True) -> triton.InferInput:
    datatype = {"int32": "INT32", "int64": "INT64", "object": "BYTES"}[values.dtype.name]
    made = triton.InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def texts(binary: bool = True, *, column: bool = False) -> triton.InferInput:
    values = np.array([text.encode() for text in TEXTS], object)
    return tensor("text", values.reshape(-1, 1) if column else values, binary)


BINARY = pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
OUT = pytest.mark.parametrize("out", [True, False, None], ids=["out-binary", "out-json", "out-all"])


def wanted(out: bool | None, *names: str) -> list[triton.InferRequestedOutput] | None:
    return None if out is None else [triton.InferRequestedOutput(name, binary_data=out) for name in names]


@BINARY
@OUT
@pytest.mark.parametrize("model", ["imdb", "five", "binary"])
def test_token_ids(client: triton.InferenceServerClient, url: str, model: str, binary: bool, out: bool | None) -> None:
    outputs = wanted(out, "logits", "labels")
    result = client.infer(model, [tensor("token_ids", TOKENS, binary)], outputs=outputs, request_id="7")
    logits = result.as_numpy("logits")
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, predicted(url, model))
    assert result.as_numpy("labels").shape == (len(TOKENS),)
    assert (result.as_numpy("probabilities") is None) == (out is not None)
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("7", model)


@BINARY
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_lengths(
    client: triton.InferenceServerClient, url: str, dtype: type[np.signedinteger[Any]], binary: bool
) -> None:
    inputs = [tensor("token_ids", TOKENS.astype(dtype), binary), tensor("lengths", LENGTHS.astype(dtype), not binary)]
    logits = client.infer("imdb", inputs, model_version="3").as_numpy("logits")
    np.testing.assert_array_equal(logits, predicted(url, "imdb", lengths=True))
    assert (logits[1] != predicted(url, "imdb")[1]).any(), "the pad id is a token where the lengths say so"


@BINARY
@OUT
@pytest.mark.parametrize("column", [False, True])
def test_texts(client: triton.InferenceServerClient, url: str, binary: bool, out: bool | None, column: bool) -> None:
    outputs = wanted(out, "probabilities", "labels", "logits")
    result = client.infer("imdb", [texts(binary, column=column)], outputs=outputs)
    classified = httpx.post(f"{url}/classify", json={"texts": TEXTS}).json()["results"]
    expected = np.array([one["logits"] for one in classified], np.float32)
    np.testing.assert_array_equal(result.as_numpy("logits"), expected)
    scores = np.array([list(one["scores"].values()) for one in classified], np.float32)
    np.testing.assert_array_equal(result.as_numpy("probabilities"), scores)
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("labels")]
    assert labels == [one["label"] for one in classified]


@OUT
def test_classification(client: triton.InferenceServerClient, url: str, out: bool | None) -> None:
    outputs = [triton.InferRequestedOutput("logits", binary_data=bool(out), class_count=3)]
    found = client.infer("five", [tensor("token_ids", TOKENS)], outputs=outputs).as_numpy("logits")
    assert found.shape == (3, 3)
    for row, logits in zip(found, predicted(url, "five"), strict=True):
        ranked = [str(one, "utf-8") if isinstance(one, bytes) else str(one) for one in row]
        best = sorted(range(len(FIVE)), key=lambda index: -logits[index])[:3]
        assert ranked == [f"{logits[index]:f}:{index}:{FIVE[index]}" for index in best]


def test_the_one_logit_of_two_labels_has_none(client: triton.InferenceServerClient, url: str) -> None:
    outputs = [triton.InferRequestedOutput(name, class_count=2) for name in ("logits", "probabilities")]
    result = client.infer("binary", [tensor("token_ids", TOKENS)], outputs=outputs)
    assert result.as_numpy("logits").ravel().tolist() == [
        f"{logit:f}:0".encode() for (logit,) in predicted(url, "binary")
    ]
    assert all(
        b"negative" in row[0] + row[1] and b"positive" in row[0] + row[1] for row in result.as_numpy("probabilities")
    )


@BINARY
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_requests(client: triton.InferenceServerClient, url: str, binary: bool, coding: str) -> None:
    result = client.infer(
        "imdb",
        [tensor("token_ids", TOKENS, binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("logits"), predicted(url, "imdb"))


def test_requests_at_once(client: triton.InferenceServerClient, url: str) -> None:
    waiting = [client.async_infer("imdb", [tensor("token_ids", TOKENS)]) for _ in range(8)]
    for each in waiting:
        np.testing.assert_array_equal(each.get_result().as_numpy("logits"), predicted(url, "imdb"))


def test_priority_timeout_and_truncation(client: triton.InferenceServerClient) -> None:
    long = tensor("text", np.array([b"good " * 100], object))
    result = client.infer("imdb", [long], priority=1, timeout=20_000_000, parameters={"truncate": "tail"})
    shorter = tensor("text", np.array([b"good " * 64], object))
    np.testing.assert_array_equal(result.as_numpy("logits"), client.infer("imdb", [shorter]).as_numpy("logits"))


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("imdb")
    assert client.is_model_ready("imdb", "3")
    assert not client.is_model_ready("imdb", "1")
    assert not client.is_model_ready("nope")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("five")
    assert metadata == client.get_model_metadata("five", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 5]}


def test_statistics(client: triton.InferenceServerClient) -> None:
    def counted() -> tuple[int, int, int]:
        (model,) = client.get_inference_statistics("imdb")["model_stats"]
        assert (model["name"], model["version"]) == ("imdb", "3")
        spent = model["inference_stats"]
        return model["inference_count"], spent["success"]["count"], spent["fail"]["count"]

    before = counted()
    client.infer("imdb", [tensor("token_ids", TOKENS)])
    with pytest.raises(InferenceServerException):
        client.infer("imdb", [tensor("token_ids", -TOKENS)])
    assert tuple(now - then for now, then in zip(counted(), before, strict=True)) == (3, 1, 1)
    models = client.get_inference_statistics()["model_stats"]
    assert sorted(model["name"] for model in models) == ["binary", "five", "imdb"]
    assert client.get_inference_statistics("imdb", "3")["model_stats"][0] in models


Call = Callable[[triton.InferenceServerClient], object]
REFUSED: dict[str, tuple[Call, str, str]] = {
    "unknown model": (lambda c: c.infer("nope", [texts()]), "404", "no model 'nope'"),
    "unknown version": (lambda c: c.infer("imdb", [texts()], model_version="1"), "404", "version 1 of 'imdb'"),
    "metadata of none": (lambda c: c.get_model_metadata("nope"), "404", "no model 'nope'"),
    "statistics of none": (lambda c: c.get_inference_statistics("nope"), "404", "no model 'nope'"),
    "no configuration": (lambda c: c.get_model_config("imdb"), "501", "no configuration of Triton's"),
    "no shared memory": (lambda c: c.get_system_shared_memory_status(), "501", "shared memory is not supported"),
    "no CUDA memory": (lambda c: c.get_cuda_shared_memory_status(), "501", "shared memory is not supported"),
    "no tracing": (lambda c: c.get_trace_settings(), "501", "tracing is not supported"),
    "no log settings": (lambda c: c.update_log_settings({"log_info": True}), "501", "LSTMSERVE_LOG_LEVEL"),
    "a negative token": (
        lambda c: c.infer("imdb", [tensor("token_ids", -TOKENS)]),
        "400",
        "input token_ids[2, 0]: -9 is below 0",
    ),
    "beyond the vocabulary": (
        lambda c: c.infer("imdb", [tensor("token_ids", TOKENS + 31)]),
        "400",
        "token id 40 is outside the model's vocabulary of 40",
    ),
    "an empty text": (
        lambda c: c.infer("imdb", [tensor("text", np.array([b"good", b""], object))]),
        "400",
        "input text[1]: the text has no token",
    ),
    "not UTF-8": (
        lambda c: c.infer("imdb", [tensor("text", np.array([b"good", b"\xff"], object))]),
        "400",
        "input text: element 1 is not UTF-8",
    ),
    "no tokenizer": (lambda c: c.infer("five", [texts()]), "400", "has no tokenizer"),
    "a sequence": (lambda c: c.infer("imdb", [texts()], sequence_id=7), "400", "requests do not continue one another"),
    "a deadline": (lambda c: c.infer("imdb", [texts()], timeout=1), "504", "deadline"),
    "a parameter": (lambda c: c.infer("imdb", [texts()], parameters={"k": 1}), "400", "#/parameters/k: is one of 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(client: triton.InferenceServerClient, case: str) -> None:
    call, status, message = REFUSED[case]
    with pytest.raises(InferenceServerException) as refused:
        call(client)
    assert refused.value.status() == status
    assert message in refused.value.message()


@pytest.mark.anyio
@BINARY
@OUT
async def test_aio_token_ids(aio: triton_aio.InferenceServerClient, url: str, binary: bool, out: bool | None) -> None:
    inputs = [tensor("token_ids", TOKENS, binary), tensor("lengths", LENGTHS, binary)]
    result = await aio.infer("imdb", inputs, outputs=wanted(out, "logits"))
    np.testing.assert_array_equal(result.as_numpy("logits"), predicted(url, "imdb", lengths=True))


@pytest.mark.anyio
@BINARY
@OUT
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
async def test_aio_texts(
    aio: triton_aio.InferenceServerClient,
    client: triton.InferenceServerClient,
    binary: bool,
    out: bool | None,
    coding: str | None,
) -> None:
    outputs = wanted(out, "logits", "probabilities", "labels")
    result = await aio.infer("imdb", [texts(binary)], outputs=outputs, request_compression_algorithm=coding)
    expected = client.infer("imdb", [texts(binary)], outputs=outputs)
    for name in ("logits", "probabilities", "labels"):
        np.testing.assert_array_equal(result.as_numpy(name), expected.as_numpy(name))


@pytest.mark.anyio
async def test_aio_all_else(aio: triton_aio.InferenceServerClient) -> None:
    assert await aio.is_server_live()
    assert await aio.is_server_ready()
    assert await aio.is_model_ready("imdb", "3")
    assert not await aio.is_model_ready("nope")
    assert (await aio.get_server_metadata())["name"] == "lstm-serve"
    assert (await aio.get_model_metadata("imdb"))["versions"] == ["3"]
    assert (await aio.get_inference_statistics("imdb"))["model_stats"][0]["name"] == "imdb"
    with pytest.raises(InferenceServerException, match="no configuration of Triton's"):
        await aio.get_model_config("imdb")
    with pytest.raises(InferenceServerException, match="is below 0") as refused:
        await aio.infer("imdb", [tensor("token_ids", -TOKENS)])
    assert refused.value.status() == "400"


def test_the_page_is_right() -> None:
    with Server(ROOT / "models/store", "--precision", "float32") as server:
        for name in ("curl", "tritonclient"):
            command = {"curl": ["bash", "-c"], "tritonclient": [sys.executable, "-c"]}[name]
            code, shown = example(name, server.url)
            done = subprocess.run([*command, code], capture_output=True, text=True, timeout=60)
            assert rounded(done.stdout) == shown, done.stderr
