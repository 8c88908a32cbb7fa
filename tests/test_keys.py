"""Keys files: what they hold, how they are read again, and the command that changes them."""

import errno
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import cli, keys
from service.keys import Key, Keys, digest, make, parse
from service.settings import SettingsError
from tests.scripted import free_port
from tests.tiny import write_tiny

Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LSTMSERVE_")}

A, B = digest(b"a"), digest(b"b")
SECRET = "lsk_Pasted-in-clear_0123456789abcdefghijklmnopqrs"


class Clock:
    now: float = 0

    def __call__(self) -> float:
        return self.now


# The file


def test_a_file_has_names_hashes_and_priorities() -> None:
    content = f"# the keys of 2026\n\n web  {A.upper()}  priority=high # ours\nnightly.batch-2\t{B}\r\n".encode()
    assert parse(content) == {A: Key("web", True), B: Key("nightly.batch-2", False)}
    assert parse(f"x {A} priority=normal".encode()) == {A: Key("x", False)}
    assert parse(b"") == parse(b"# nobody\n") == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"web {SECRET}", "line 1: the second word must be the key's SHA-256, 64 hex digits"),
        (f"ok {A}\n{SECRET}", "line 2: a name is"),
        (f"{SECRET} {A}", "line 1: a name is"),
        (f"web {A} {SECRET}", "line 1: after the hash nothing may stand but priority=high or priority=normal"),
        (f"web {A} priority={SECRET}", "line 1: after the hash"),
        (f"web {A} priority=high priority=high", "line 1: after the hash"),
        ("web", "line 1: the second word"),
        (f"web {A[:-1]}", "line 1: the second word"),
        (f"web {A[:-1]}x", "line 1: the second word"),
        (f"wéb {A}", "line 1: a name is"),
        (f"{'x' * 65} {A}", "line 1: a name is"),
        (f"web/1 {A}", "line 1: a name is"),
        (f"web {A}\n\nweb {B}", "line 3: has the name of line 1"),
        (f"web {A}\n# {B}\nbatch {A.upper()}", "line 3: has the hash of line 1"),
        ("\n".join(f"k{n} {n:064x}" for n in range(1001)), "line 1001: at most 1000 keys are taken"),
    ],
)
def test_what_is_wrong_is_told_by_its_line_and_not_repeated(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(SettingsError) as caught:
        Keys(tmp_path / "keys", setting="LSTMSERVE_ADMIN_KEYS_FILE")
    error = str(caught.value)
    assert error.startswith(f"LSTMSERVE_ADMIN_KEYS_FILE={tmp_path / 'keys'}: {says}")
    assert "\n" not in error
    assert "Pasted" not in error
    assert A[:16] not in error.lower()


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"web \xff")
    (tmp_path / "large").write_bytes(b"#" * (keys.MAX_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")  # it would be waited for
    for name, says in {
        "bytes": "is not text in UTF-8",
        "large": "is larger than 1048576 bytes",
        "pipe": "is not a regular file",
        ".": "is not a regular file",
        "none": "No such file or directory; lstm-serve keys add FILE NAME makes one",
    }.items():
        with pytest.raises(SettingsError, match=f"^LSTMSERVE_API_KEYS_FILE={tmp_path / name}: {says}$"):
            Keys(tmp_path / name, setting="LSTMSERVE_API_KEYS_FILE")


def test_a_file_of_others_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("service.keys.read", refuse)  # root may read all
    with pytest.raises(SettingsError, match=r"^S=x: Permission denied; let the user that serves read it$"):
        Keys(Path("x"), setting="S")


def test_a_file_without_keys_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text("# nobody yet\n")
    found = Keys(path, clock := Clock())
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["file"]) == ("WARNING", str(path))
    path.write_text(f"a {A}\n")
    clock.now = 1
    assert found.find(b"a") == Key("a", False)


@given(st.binary(max_size=200) | st.lists(st.sampled_from([A, B, "a", "b", " ", "\n", "#", "priority=high", "\0"])))
def test_any_bytes_are_keys_or_one_line_that_says_why_not(content: bytes | list[str]) -> None:
    data = content if isinstance(content, bytes) else "".join(content).encode()
    told, found = "", {}
    try:
        found = parse(data)
    except ValueError as error:
        told = str(error)
    assert re.fullmatch(r"(line \d+: .+|is not text in UTF-8)?", told)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) and keys.named(key.name) for sha256, key in found.items())


def test_a_key_is_random_and_known_by_its_prefix() -> None:
    made = {make() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"lsk_[\w-]{43}", key, re.ASCII) for key in made)


# While it is used


def test_a_key_is_found_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a {A} priority=high\nb {B}\n")
    found = Keys(path)
    assert found.find(b"a") == Key("a", True)
    assert found.find(b"b") == Key("b", False)
    for sent in (b"", b"c", b"a ", b"A", A.encode(), bytes.fromhex(A), b"\xff"):
        assert found.find(sent) is None


def test_every_hash_is_compared_whichever_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("".join(f"k{n} {digest(b'%d' % n)}\n" for n in range(50)))
    found, compared = Keys(path), 0

    def compare(known: str, sent: str) -> bool:
        nonlocal compared
        compared += 1
        return known == sent

    monkeypatch.setattr("service.keys.hmac.compare_digest", compare)
    for sent in (b"0", b"49", b"none"):
        compared = 0
        found.find(sent)
        assert compared == 50


def swapped(path: Path, content: str) -> None:
    """As Kubernetes changes a secret: the name stays, what it leads to is another file in another folder."""
    folder = path.parent / f"..{os.urandom(4).hex()}"
    folder.mkdir()
    (folder / path.name).write_text(content)
    link = path.parent / "..next"
    link.symlink_to(folder / path.name)
    link.rename(path)


@pytest.mark.parametrize("change", [Path.write_text, swapped])
def test_a_change_is_seen_within_a_second(tmp_path: Path, change: Callable[[Path, str], object]) -> None:
    path = tmp_path / "keys"
    change(path, f"a {A}\n")
    found = Keys(path, clock := Clock())
    assert found.find(b"a") == Key("a", False)
    change(path, f"b {B}\n")
    clock.now = 0.9
    assert found.find(b"a") == Key("a", False), "looked at a moment ago"
    clock.now = 1.0
    assert found.find(b"a") is None
    assert found.find(b"b") == Key("b", False)
    change(path, "")
    os.utime(path, (0, 0))
    clock.now = 2.0
    assert found.find(b"b") is None, "a file without keys lets nobody in"


def test_a_file_that_is_emptied_first_and_then_written_lets_everybody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a {A}\n")
    found = Keys(path, clock := Clock())

    def look(now: int) -> Key | None:
        """As long after the file's last change as the clock says that it is."""
        clock.now = now
        monkeypatch.setattr("service.keys.time.time_ns", lambda: changed + round((now - since) * 1e9))
        return found.find(b"a")

    path.write_text("")
    changed, since = path.stat().st_mtime_ns, 0.5
    assert look(1) == Key("a", False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    path.write_text(f"a {A} priority=high\n")
    assert look(2) == Key("a", True), "it was not empty for long"
    path.write_text("# nobody\n")
    changed, since = path.stat().st_mtime_ns, 2.5
    assert look(3) == Key("a", True)
    assert look(4) is None, "it still is at the next look"
    assert not found.broken
    path.write_text(f"a {A}\n")
    assert look(5) == Key("a", False)
    path.write_text("")
    changed, since = path.stat().st_mtime_ns, 5.5
    assert look(3600) is None, "nobody had looked since"


def test_a_file_is_read_as_soon_as_it_can_be_though_it_has_not_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a {A}\n")
    found = Keys(path, clock := Clock())
    path.write_text(f"b {B}\n")
    fails: list[int] = []

    def read(path: Path) -> bytes:
        if fails:
            raise OSError(fails[-1], os.strerror(fails[-1]))
        return path.read_bytes()

    monkeypatch.setattr("service.keys.read", read)
    for clock.now, number in enumerate([errno.EMFILE, errno.EMFILE, errno.EIO, errno.EMFILE], 1):
        fails.append(number)
        assert found.broken
        assert found.find(b"a") == Key("a", False)
    assert [record.__dict__["reason"] for record in caplog.records] == ["Too many open files", "Input/output error"]
    fails.clear()
    clock.now = 5
    assert found.find(b"b") == Key("b", False)
    assert not found.broken


@pytest.mark.parametrize("how", ["wrong", "gone", "folder"])
def test_a_broken_file_leaves_the_keys_in_force_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a {A}\n")
    found = Keys(path, clock := Clock())
    assert not found.broken
    path.unlink()
    if how == "wrong":
        path.write_text(f"b {SECRET}\n")
    elif how == "folder":
        path.mkdir()
    with caplog.at_level(logging.INFO):
        for clock.now in range(1, 6):
            assert found.broken
            assert found.find(b"a") == Key("a", False)
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["file"]) == ("ERROR", str(path))
    assert "Pasted" not in str(record.__dict__)
    caplog.clear()
    if how == "folder":
        path.rmdir()
    path.write_text(f"b {B}\n")
    with caplog.at_level(logging.INFO):
        clock.now = 7
        assert found.find(b"a") is None
    assert not found.broken
    assert [record.levelname for record in caplog.records] == ["INFO"]


# The command


def run(capsys: Captured, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and error."""
    try:
        code: object = cli.main(["keys", *map(str, words)])
    except SystemExit as exit_:
        code = exit_.code
    assert isinstance(code, int)
    return (code, *capsys.readouterr())


def test_add_prints_the_key_once_and_keeps_its_hash(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "keys"
    code, key, told = run(capsys, "add", path, "web", "--priority", "high")
    assert code == 0
    key = key.strip()
    assert key not in told
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = Keys(path, clock := Clock())
    assert found.find(key.encode()) == Key("web", True)
    path.write_text("# ours\n" + path.read_text())
    path.chmod(0o640)
    run(capsys, "add", path, "batch")
    assert run(capsys, "list", path) == (0, "web\thigh\nbatch\tnormal\n", "")
    assert run(capsys, "remove", path, "web")[0] == 0
    assert run(capsys, "list", path) == (0, "batch\tnormal\n", "")
    assert path.read_text().startswith("# ours\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    clock.now = 1
    assert found.find(key.encode()) is None, "a service that uses the file refuses it"
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_a_link_stays_and_what_it_leads_to_is_changed(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "link").symlink_to("keys")
    (tmp_path / "keys").write_text("")
    assert run(capsys, "add", tmp_path / "link", "web")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert len(parse((tmp_path / "keys").read_bytes())) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("add {file} web", "has a key of that name: choose another, and remove the old one when nobody uses it"),
        (f"add {{file}} {SECRET}", "NAME: a name is 1 to 64 letters, digits"),
        ("add {file} #web", "NAME: a name is"),
        ("add {file} .web", "NAME: a name is"),
        ("add {file} web/1", "NAME: a name is"),
        ("remove {file} nobody", "has no key of that name; lstm-serve keys list FILE names them"),
        ("remove {file} #", "has no key of that name"),
        ("list {file}.not", "No such file or directory"),
        ("list .", "is not a regular file"),
        ("add {file}/x web", "Not a directory"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    tmp_path: Path, capsys: Captured, words: str, says: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# web\nweb {A}\n")
    code, out, told = run(capsys, *words.format(file=path).split())
    assert (code, out) == (2, "")
    assert re.fullmatch(f"lstm-serve keys: error: (.*: )?{re.escape(says)}.*\n", told)
    assert "Pasted" not in told
    assert path.read_text() == f"# web\nweb {A}\n"
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_a_file_that_is_wrong_is_not_made_worse(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "keys"
    path.write_text(f"web {SECRET}\n")
    code, out, told = run(capsys, "add", path, "batch")
    assert (code, out) == (2, "")
    assert "line 1: the second word" in told
    assert "Pasted" not in told
    assert path.read_text() == f"web {SECRET}\n"


@pytest.mark.parametrize("words", ["add", "add x", "remove x", "list x y", "drop x y", "add x y --priority urgent"])
def test_words_that_are_not_right_are_one_line(tmp_path: Path, capsys: Captured, words: str) -> None:
    code, out, told = run(capsys, *words.split())
    assert (code, out) == (2, "")
    assert told.startswith("lstm-serve keys: error: ")
    assert told.count("\n") == 1


def test_changes_at_the_same_time_undo_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda number: cli.main(["keys", "add", str(path), f"k{number}"]), range(24)))
    assert codes == [0] * 24
    assert {key.name for key in parse(path.read_bytes()).values()} == {f"k{number}" for number in range(24)}


def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    """On an address that others reach; a port of its own."""
    script = README.partition("<!-- run: keys -->\n```sh\n")[2].partition("```")[0]
    assert len(script.splitlines()) == 3
    write_tiny(tmp_path / "models/store/imdb/1")
    port = str(free_port())
    words = {".venv/bin/lstm-serve": f"{sys.executable} -m service.cli", "make serve": f"{sys.executable} -m service"}
    for shown, run_ in {**words, ":8000": f":{port}"}.items():
        script = script.replace(shown, run_)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}\nkill $!; wait $!"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "LSTMSERVE_PORT": port, "LSTMSERVE_DRAIN_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [model["name"] for model in json.loads(done.stdout)] == ["imdb"]
    assert "lsk_" not in done.stdout + done.stderr
