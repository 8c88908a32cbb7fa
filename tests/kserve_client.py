"""KServe's Python client, in an environment of its own: its packages do not go together with ours.

``python kserve_client.py URL`` reads a JSON object of token_ids and texts from its input, asks ``imdb`` at the URL for
them in every way there is, and prints what came of each as JSON.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def tensor(name: str, values: np.ndarray, datatype: str, binary: bool) -> InferInput:
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


async def ask(
    client: InferenceRESTClient, url: str, made: InferInput, binary: bool, all_outputs: bool
) -> dict[str, Any]:
    wanted = None
    if not all_outputs:
        wanted = [RequestedOutput(name, {"binary_data": binary}) for name in ("logits", "labels")]
    request = InferRequest(
        "imdb",
        [made],
        request_id="7",
        parameters={"binary_data_output": binary},
        request_outputs=wanted,
    )
    response = await client.infer(url, request, model_name="imdb")
    found = {output.name: output.as_numpy().tolist() for output in response.outputs}
    return {"id": response.id, "model": response.model_name, **found}


async def main(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    config = RESTConfig(protocol="v2")
    answers: dict[str, Any] = {}
    async with InferenceRESTClient(config) as client:
        answers["live"] = await client.is_server_live(url)
        answers["ready"] = await client.is_server_ready(url)
        answers["models"] = [await client.is_model_ready(url, name) for name in ("imdb", "nope")]
        values = {
            "token_ids": (np.array(asked["token_ids"]), "INT64"),
            "text": (np.array([text.encode() for text in asked["texts"]], object), "BYTES"),
        }
        for name, (array, datatype) in values.items():
            answers[name] = [
                await ask(client, url, tensor(name, array, datatype, binary_in), binary_out, all_outputs)
                for binary_in in (True, False)
                for binary_out in (True, False)
                for all_outputs in (True, False)
            ]
        try:
            await client.infer(
                url, InferRequest("imdb", [tensor("token_ids", -values["token_ids"][0], "INT64", True)]), "imdb"
            )
        except httpx.HTTPStatusError as error:
            answers["refused"] = str(error)
    return answers


if __name__ == "__main__":
    json.dump(asyncio.run(main(sys.argv[1], json.load(sys.stdin))), sys.stdout, default=bytes.decode)
