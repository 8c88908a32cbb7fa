"""TLS, ended by the service itself: a real certificate, a real server, clients that verify it."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service import tls
from service.client import Client
from service.settings import SettingsError
from tests.server import Server
from tests.tiny import write_tiny


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for 127.0.0.1 that have signed themselves: cert.pem with key.pem, other.pem with another key."""
    folder = tmp_path_factory.mktemp("tls")
    for certificate, key in (("cert", "key"), ("other", "other-key")):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", folder / f"{key}.pem", "-out", folder / f"{certificate}.pem"),
        )
    openssl("ec", "-in", folder / "key.pem", "-aes256", "-passout", "pass:x", "-out", folder / "locked.pem")
    (folder / "text.pem").write_text("this is not PEM")
    write_tiny(folder / "store/imdb/1")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    flags = ("--tls-cert-file", folder / "cert.pem", "--tls-key-file", folder / "key.pem")
    with Server(folder / "store", *map(str, flags)) as server:
        yield server


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "cert.pem")


def test_it_answers_by_https_alone(server: Server, folder: Path) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    reply = httpx.post(f"{server.url}/predict", json={"token_ids": [[5]]}, verify=trusting(folder))
    assert reply.status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/livez")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server.url.replace('https', 'http')}/livez")


def test_the_client_speaks_it(server: Server, folder: Path) -> None:
    with Client(server.url, transport=httpx.HTTPTransport(verify=trusting(folder))) as client:
        assert client.ready()
        assert client.predict([[5]]).model == "imdb"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_what_is_spoken_is_recent(server: Server, folder: Path, version: str) -> None:
    context = trusting(folder)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    host, port = server.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        cipher = wrapped.cipher()
        assert cipher is not None
        assert re.search("GCM|CHACHA20", cipher[0]), "authenticated encryption"


def test_nothing_older_is_spoken(folder: Path) -> None:
    made = tls.context(folder / "cert.pem", folder / "key.pem")
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert made.verify_mode == ssl.CERT_NONE, "clients need no certificate: they have keys"


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("none.pem", "key.pem", "LSTMSERVE_TLS_CERT_FILE=.*none.pem: cannot be read: No such file or directory"),
        ("cert.pem", ".", r"LSTMSERVE_TLS_KEY_FILE=.*: cannot be read: Is a directory"),
        ("cert.pem", "other-key.pem", r"its own private key, in PEM, without a passphrase \(KEY_VALUES_MISMATCH\)"),
        ("text.pem", "key.pem", "must be a certificate chain and its own private key, in PEM"),
        ("cert.pem", "text.pem", "must be a certificate chain and its own private key, in PEM"),
        ("cert.pem", "locked.pem", r"without a passphrase \(the key has a passphrase\)"),
    ],
)
def test_files_that_are_not_right_are_one_line(folder: Path, certificate: str, key: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        tls.context(folder / certificate, folder / key)
    assert "\n" not in str(caught.value)


def test_a_service_does_not_start_with_them(folder: Path) -> None:
    flags = ("--tls-cert-file", folder / "cert.pem", "--tls-key-file", folder / "other-key.pem")
    with Server(folder / "store", *map(str, flags)) as server:
        assert server.wait() == 2
    assert len(server.lines) == 1
    assert server.lines[0].startswith("lstm-serve: LSTMSERVE_TLS_CERT_FILE=")
