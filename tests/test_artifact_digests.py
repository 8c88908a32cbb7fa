"""SHA256SUMS: every byte of a version is the one that was written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifact import CONFIG, GOLDEN, SUMS, TOKENIZER, WEIGHTS, ArtifactError, read_artifact
from models.tokenizer import Tokenizer
from tests.test_artifact import COVERED, refusal
from tests.tiny import TEXTS, write_tiny


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("store") / "1"
    write_tiny(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version to be changed."""
    write_tiny(tmp_path / "tiny" / "1")
    return tmp_path / "tiny" / "1"


@given(st.data())
def test_any_changed_byte_of_any_covered_file_is_noticed(shared: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(COVERED))
    content = (shared / name).read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        (shared / name).write_bytes(changed)
        assert "differs from its digest in SHA256SUMS" in refusal(shared, name)
    finally:
        (shared / name).write_bytes(content)


@given(st.data())
def test_any_changed_byte_of_the_digests_is_noticed(shared: Path, data: st.DataObject) -> None:
    content = (shared / SUMS).read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        (shared / SUMS).write_bytes(changed)
        with pytest.raises(ArtifactError):
            read_artifact(shared)
    finally:
        (shared / SUMS).write_bytes(content)


@given(st.data())
def test_digests_cut_short_are_noticed(shared: Path, data: st.DataObject) -> None:
    content = (shared / SUMS).read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    try:
        (shared / SUMS).write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"cut short|does not cover|not covered"):
            read_artifact(shared)
    finally:
        (shared / SUMS).write_bytes(content)


@pytest.mark.parametrize("name", [*COVERED, SUMS])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder, name) == "cannot be read: No such file or directory"


def test_a_file_that_is_a_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    assert refusal(folder, WEIGHTS) == "is not a regular file"


def test_a_tokenizer_that_the_digests_do_not_list(tmp_path: Path) -> None:
    write_tiny(tmp_path / "1", with_tokenizer=False)
    (tmp_path / "1" / TOKENIZER).write_text(Tokenizer.train(TEXTS, 40).to_json())
    assert refusal(tmp_path / "1", TOKENIZER) == "is not covered by SHA256SUMS"


@pytest.mark.parametrize("name", [CONFIG, GOLDEN, WEIGHTS])
def test_digests_that_leave_a_file_out(folder: Path, name: str) -> None:
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    (folder / SUMS).write_text("".join(line for line in lines if not line.endswith(f"{name}\n")))
    assert refusal(folder, SUMS) == f"does not cover {name}"


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  ../secret\n",
        "0" * 64 + "  /etc/passwd\n",
        "0" * 64 + "  README.md\n",
        "0" * 64 + "  SHA256SUMS\n",
        "0" * 63 + "  config.json\n",
        "0" * 64 + " *config.json\n",
        "0" * 64 + "  config.json\r\n",
        "0" * 64 + "  config.json\n",  # a second time
        "not a digest\n",
        "\n",
        "\udcff\n",
    ],
)
def test_lines_that_are_no_digest_of_the_versions_files(folder: Path, line: str) -> None:
    with (folder / SUMS).open("ab") as file:
        file.write(line.encode(errors="surrogateescape"))
    assert refusal(folder, SUMS) == "line 5 is not a digest of one of the version's files"
