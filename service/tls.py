"""TLS, where the service ends it itself."""

import ssl
from pathlib import Path

from service.settings import SettingsError


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's, of TLS 1.2 or later, with the certificate chain and its key. Raises SettingsError."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, path in (("TLS_CERT_FILE", certificate), ("TLS_KEY_FILE", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"LSTMSERVE_{name}={path}: cannot be read: {error.strerror}") from error
    both = f"LSTMSERVE_TLS_CERT_FILE={certificate}, LSTMSERVE_TLS_KEY_FILE={key}"
    try:
        made.load_cert_chain(certificate, key, password=_refuse)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise SettingsError(
            f"{both}: must be a certificate chain and its own private key, in PEM, without a passphrase ({reason})"
        ) from error
    return made


def _refuse() -> str:
    """Instead of a question at the terminal."""
    raise ValueError("the key has a passphrase")
