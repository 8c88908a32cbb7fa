"""A version takes another's place while it is asked: what changes, what does not, and what it leaves behind."""

import asyncio
import gc
import json
import logging
import shutil
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import pytest

from models.artifact import Artifact, ArtifactError, read_artifact, write_artifact
from service.engine import Engine, choose
from service.errors import UnknownModel
from service.repository import Model
from service.settings import Settings
from tests.fake_engine import until
from tests.loading import Loading, loading
from tests.tiny import tiny_artifact, write_tiny

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["native", "packed"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "native":
        pytest.importorskip("service.engine._core", reason="the native engine is not built")
    engine = choose(Settings(engine=request.param, device="cpu", threads=1))
    yield engine
    assert engine.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        write_tiny(tmp_path / "imdb" / str(version), seed=version)
    return tmp_path


def damage(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def wrong(folder: Path) -> None:
    """Makes it a version whose golden cases do not hold; sealed all the same."""
    artifact = tiny_artifact()
    off = [case.model_copy(update={"logits": [9.0, -9.0]}) for case in artifact.golden]
    shutil.rmtree(folder, ignore_errors=True)
    write_artifact(folder, artifact._replace(golden=off))


def serving(made: Loading) -> int:
    return made.repository.get().version


def serves(made: Loading) -> set[tuple[str, int]]:
    return {(model.name, model.version) for model in made.repository}


async def looked_twice(made: Loading) -> None:
    """What has not changed in between is loaded."""
    await made.loader.refresh()
    await made.loader.refresh()


async def test_load_pins_and_goes_back(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        assert serving(made) == 3
        loaded = await made.loader.load("imdb", 1)
        assert (loaded.model.version, loaded.replaced, serving(made)) == (1, 3, 1)
        assert made.loader.pinned("imdb")
        await looked_twice(made)
        assert serving(made) == 1, "a pinned version stays"
        loaded = await made.loader.load("imdb")
        assert (loaded.replaced, serving(made)) == (1, 3)
        assert not made.loader.pinned("imdb")


async def test_what_serves_already_is_left_alone(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        before = made.repository.get()
        loaded = await made.loader.load("imdb", 3)
        assert loaded.comparison is None
        assert made.repository.get() is before
        shutil.rmtree(store / "imdb" / "3")
        write_tiny(store / "imdb" / "3", seed=33)
        await made.loader.load("imdb", 3)
        assert made.repository.get().weights is not before.weights, "another version under its number"


@pytest.mark.parametrize("harm", [damage, wrong])
async def test_a_version_that_fails_changes_nothing(
    store: Path, engine: Engine, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        await made.loader.load("imdb", 1)
        before = made.repository.get()
        harm(store / "imdb" / "3")
        for version in (3, None):
            with pytest.raises(ArtifactError, match="imdb/3"):
                await made.loader.load("imdb", version)
            assert made.repository.get() is before
            assert made.loader.pinned("imdb")
        assert made.count("lstmserve_model_loads_total", model="imdb", outcome="failed") == 2
        answer = await made.batcher.run(before.weights, [[3, 4]], seconds=10)
        assert len(answer.logits) == 1
    failures = [record for record in caplog.records if record.message == "not loaded"]
    assert [(record.levelname, vars(record)["version"]) for record in failures] == [("ERROR", 3)] * 2


async def test_at_the_start_the_highest_version_that_holds_serves(store: Path, engine: Engine) -> None:
    damage(store / "imdb" / "3")
    async with loading(store, engine) as made:
        await made.loader.open()
        assert serving(made) == 2
        assert made.count("lstmserve_model_loads_total", model="imdb", outcome="failed") == 1
        await looked_twice(made)
        assert serving(made) == 2
        assert made.count("lstmserve_model_versions_refused") == 1
        assert made.count("lstmserve_model_loads_total", model="imdb", outcome="failed") == 1, "not tried again"
        shutil.rmtree(store / "imdb" / "3")
        write_tiny(store / "imdb" / "3", seed=3)
        await looked_twice(made)
        assert serving(made) == 3, "tried again as its files have changed"
        assert made.count("lstmserve_model_versions_refused") == 0


async def test_a_pinned_version_that_fails_is_not_stood_in_for(store: Path, engine: Engine) -> None:
    damage(store / "imdb" / "2")
    async with loading(store, engine, pins={"imdb": 2}) as made:
        with pytest.raises(ArtifactError, match="imdb/2"):
            await made.loader.open()
    async with loading(store, engine, pins={"imdb": 1}) as made:
        await made.loader.open()
        assert serving(made) == 1
    async with loading(store, engine, pins={"other": 1}) as made:
        with pytest.raises(ArtifactError, match=r"other/1: no such model or version \(LSTMSERVE_PINS\)"):
            await made.loader.open()


async def test_unknown_models_and_versions_are_told_with_what_there_is(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        with pytest.raises(UnknownModel, match="no model 'nope' in the store, which has imdb"):
            await made.loader.load("nope")
        with pytest.raises(UnknownModel, match="no version 9 of 'imdb' in the store, which has 3, 2, 1"):
            await made.loader.load("imdb", 9)
        with pytest.raises(UnknownModel):
            made.loader.unload("nope")
        made.loader.unload("imdb")
        with pytest.raises(UnknownModel, match="there are: none"):
            made.repository.get()
        await made.loader.load("imdb")
        assert serving(made) == 3


async def test_what_appears_is_loaded_by_a_refresh(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        write_tiny(store / "imdb" / "10", seed=10)
        write_tiny(store / "topics" / "1", labels=("a", "b", "c"))
        await made.loader.refresh()
        assert serving(made) == 3, "it may still be copied"
        await made.loader.refresh()
        assert serves(made) == {("imdb", 10), ("topics", 1)}
        shutil.rmtree(store / "imdb" / "10")
        shutil.rmtree(store / "topics")
        await looked_twice(made)
        assert serves(made) == {("imdb", 10), ("topics", 1)}, "a folder that is gone is no wish to go back"
        await made.loader.load("imdb")
        assert serving(made) == 3


async def test_what_somebody_unloaded_stays_so_until_somebody_loads_it(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        made.loader.unload("imdb")
        write_tiny(store / "imdb" / "10", seed=10)
        await looked_twice(made)
        assert "imdb" not in made.repository
        await made.loader.load("imdb", 1)
        await made.loader.load("imdb")
        assert serving(made) == 10


async def test_requests_in_flight_end_on_the_version_on_which_they_began(store: Path, engine: Engine) -> None:
    long = [[5] * 64] * 60
    async with loading(store, engine) as made:
        await made.loader.open()
        old = made.repository.get()
        alone = (await made.batcher.run(old.weights, long[:1], seconds=60)).logits
        running = asyncio.ensure_future(made.batcher.run(old.weights, long, seconds=60, bounded=False))
        await asyncio.sleep(0)
        await made.loader.load("imdb", 1)
        assert serving(made) == 1
        assert (await running).logits == alone * 60 or engine.name == "packed"
        new = made.repository.get()
        assert (await made.batcher.run(new.weights, long[:1], seconds=60)).logits != alone


def scaled(artifact: Artifact, factor: float) -> Artifact:
    """The same with its logits times `factor`: -1 turns every label."""
    weights = {name: array * (factor if name.startswith("linear") else 1.0) for name, array in artifact.weights.items()}
    golden = [case.model_copy(update={"logits": [logit * factor for logit in case.logits]}) for case in artifact.golden]
    return artifact._replace(weights=weights, golden=golden)


async def test_the_comparison_counts_the_labels_that_turn(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = tiny_artifact()
    write_artifact(tmp_path / "imdb" / "1", artifact)
    write_artifact(tmp_path / "imdb" / "2", scaled(artifact, -1.0))
    write_artifact(tmp_path / "imdb" / "3", scaled(artifact, -2.0))
    caplog.set_level(logging.INFO)
    async with loading(tmp_path, engine, keep=5, pins={"imdb": 1}) as made:
        await made.loader.open()
        made.repository.note(made.repository.get(), [[n + 2, 3] for n in range(9)])
        turned = (await made.loader.load("imdb", 2)).comparison
        assert turned is not None
        texts = {case.text for case in artifact.golden if case.text}
        assert turned.golden == len(texts) > 3
        assert {flip.text for flip in turned.golden_flips} == texts
        assert all({flip.before, flip.after} == {"negative", "positive"} for flip in turned.golden_flips)
        assert (turned.served, turned.served_flips) == (5, 5), "as many as are kept"
        kept = (await made.loader.load("imdb", 3)).comparison
        assert kept is not None
        assert (kept.golden, kept.golden_flips, kept.served, kept.served_flips) == (len(texts), [], 5, 0)
    logged = [vars(record) for record in caplog.records if record.message == "loaded" and "replaced" in vars(record)]
    assert [(log["golden"]["flips"], log["served"]["flips"]) for log in logged] == [(len(texts), 5), (0, 0)]
    assert not any(text in json.dumps([str(log) for log in logged]) for text in texts), "no texts in the log"


async def test_token_ids_are_compared_only_where_they_mean_the_same(tmp_path: Path, engine: Engine) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    write_artifact(tmp_path / "imdb" / "2", tiny_artifact(with_tokenizer=False))
    write_tiny(tmp_path / "imdb" / "3", max_length=5)
    async with loading(tmp_path, engine, keep=5, pins={"imdb": 1}) as made:
        await made.loader.open()
        made.repository.note(made.repository.get(), [[2, 3], [2] * 6])
        without = (await made.loader.load("imdb", 2)).comparison
        assert without is not None
        assert (without.golden, without.served) == (0, 0)
        await made.loader.load("imdb", 1)
        shorter = (await made.loader.load("imdb", 3)).comparison
        assert shorter is not None
        assert shorter.served == 1, "the longer one would be refused"


async def test_what_fails_for_the_moment_is_tried_again(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = engine.load

    def full(*_: object) -> Hashable:
        raise MemoryError("no room")

    async with loading(store, engine, pins={"imdb": 1}) as made:
        await made.loader.open()
        monkeypatch.setattr(engine, "load", full)
        with pytest.raises(ArtifactError, match="no room"):
            await made.loader.load("imdb")
        made.loader._pins.clear()
        monkeypatch.setattr(engine, "load", load)
        await looked_twice(made)
        assert serving(made) == 1, "not at once"
        made.loader.refused = {key: failed._replace(again=0.0) for key, failed in made.loader.refused.items()}
        await looked_twice(made)
        assert serving(made) == 3


async def test_a_read_that_hangs_keeps_nobody_from_unloading(
    store: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def hanging(folder: Path) -> Artifact:
        if folder.name == "4":
            goes_on.wait()
        return read_artifact(folder)

    monkeypatch.setattr("service.verification.read_artifact", hanging)
    async with loading(store, engine) as made:
        await made.loader.open()
        write_tiny(store / "imdb" / "4", seed=4)
        hangs = asyncio.ensure_future(made.loader.load("imdb"))
        await asyncio.sleep(0.1)
        made.loader.unload("imdb")
        assert "imdb" not in made.repository
        monkeypatch.setattr("service.verification.SECONDS", 0.1)
        hangs.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hangs
        with pytest.raises(ArtifactError, match=r"imdb/4: cannot be read: not done in 0 s"):
            await made.loader.load("imdb")
        await made.loader.load("imdb", 3)
        assert serving(made) == 3
    goes_on.set()


async def test_what_is_unloaded_while_it_is_loaded_does_not_come_back(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        comes = asyncio.ensure_future(made.loader.load("imdb", 1))
        await asyncio.sleep(0)
        made.loader.unload("imdb")
        with pytest.raises(ArtifactError, match="unloaded meanwhile"):
            await comes
        assert "imdb" not in made.repository


async def test_the_comparison_leaves_room_in_the_queue(store: Path, engine: Engine) -> None:
    """Those who ask while many kept sequences are judged by two versions are not refused."""
    async with loading(store, engine, keep=1000) as made:
        await made.loader.open()
        model = made.repository.get()
        made.repository.note(model, [[5] * 60] * 1000)
        load = asyncio.ensure_future(made.loader.load("imdb", 1))
        while not load.done():
            await made.batcher.run(model.weights, [[5] * 60], seconds=60)
        comparison = (await load).comparison
        assert comparison is not None
        assert comparison.served == 1000


async def test_nothing_is_kept_unless_it_is_asked_for(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        model = made.repository.get()
        made.repository.note(model, [[2, 3]])
        assert made.repository.served(model) == []


async def test_a_full_queue_does_not_keep_a_version_out(store: Path, engine: Engine) -> None:
    async with loading(store, engine) as made:
        await made.loader.open()
        crowd = [
            asyncio.ensure_future(made.batcher.run(made.repository.get().weights, [[5] * 64], seconds=60))
            for _ in range(200)
        ]
        await asyncio.sleep(0)
        loaded = await made.loader.load("imdb", 1)
        assert loaded.model.version == 1
        ended = await asyncio.gather(*crowd, return_exceptions=True)
        assert any(isinstance(each, Exception) for each in ended), "the queue was full"


async def test_what_is_let_go_of_is_freed(store: Path, engine: Engine) -> None:
    """Of the versions that have served no weights are left once nobody computes with them."""
    async with loading(store, engine, keep=3) as made:
        await made.loader.open()
        seen = []
        for number in range(6):
            model: Model | None = made.repository.get()
            assert model is not None
            seen.append(weakref.ref(model.weights))
            await made.batcher.run(model.weights, [[3, 4]], seconds=10)
            model = None
            await made.loader.load("imdb", 1 + number % 2)

        async def gone() -> bool:
            gc.collect()
            return all(weights() is None for weights in seen)

        await until(gone)
