"""A hundred reloads while it is asked: no request is lost, each reply is one version's, memory stays where it is."""

import http.client
import json
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.keys import Key, digest, line
from tests.server import Server
from tests.test_memory import resident
from tests.tiny import write_tiny

RELOADS, CALLERS = 100, 4
SEQUENCES = [[3 + n % 37, *range(2, 2 + n)] for n in range(1, 30)]


class Callers:
    """They ask without a pause and note every reply that is not right."""

    def __init__(self, url: str, right: dict[int, list[list[float]]]) -> None:
        self._address, self._right = urlsplit(url).netloc, right
        self._stop = threading.Event()
        self.versions: Counter[int] = Counter()
        self.wrong: list[object] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._stop.is_set():
            number = (number + 1) % len(SEQUENCES)
            try:
                body = json.dumps({"token_ids": [SEQUENCES[number]]})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                answer = json.loads(reply.read())
                if reply.status != 200 or answer["logits"] != [self._right[answer["version"]][number]]:
                    self.wrong.append((reply.status, answer))
                self.versions[answer.get("version")] += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.wrong.append(error)
                return
        connection.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_hundred_reloads_under_load(tmp_path: Path) -> None:
    for version in (1, 2):
        # 22 MiB of weights and tables: what is not freed shows
        write_tiny(tmp_path / "imdb" / str(version), seed=version, vocab_size=8_000, hidden_size=64, embedding_dim=64)
    (tmp_path / "keys").write_text(line(Key("ops", urgent=False), digest(b"the-operator's")))
    with (
        Server(tmp_path, "--engine", "native", LSTMSERVE_ADMIN_KEYS_FILE=str(tmp_path / "keys")) as server,
        httpx.Client(base_url=server.url, headers={"Authorization": "Bearer the-operator's"}, timeout=60) as operator,
    ):

        def load(version: int) -> None:
            body = {"parameters": {"version": version}}
            reply = operator.post("/v2/repository/models/imdb/load", json=body)
            assert reply.status_code == 200, reply.text
            assert reply.json()["version"] == version

        right = {}
        for version in (1, 2):
            load(version)
            right[version] = [
                operator.post("/predict", json={"token_ids": [tokens]}).json()["logits"][0] for tokens in SEQUENCES
            ]
        assert right[1] != right[2]
        with Callers(server.url, right) as callers:
            sizes = []
            for number in range(RELOADS):
                load(1 + number % 2)
                if number in (RELOADS // 5, RELOADS - 1):
                    time.sleep(0.5)  # the last requests of the version before end
                    sizes.append(resident(server.process.pid))
        assert not callers.wrong
        assert min(callers.versions[1], callers.versions[2]) > RELOADS
        assert sizes[1] - sizes[0] < 40 << 20, "two versions more than there were, of eighty that were loaded"
        metrics = operator.get("/metrics").text
        assert f'lstmserve_model_loads_total{{model="imdb",outcome="loaded"}} {RELOADS + 3}.0' in metrics
