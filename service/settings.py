"""The one table of settings: the environment, the command line, the docs and the tests all read it."""

import argparse
import difflib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PREFIX = "LSTMSERVE_"
PROG = "python -m service"


class SettingsError(ValueError):
    """A setting that is unknown or out of bounds; the message is one line."""


class Settings(BaseModel):
    """Each field is an environment variable (``LSTMSERVE_PORT``) and a flag (``--port``); the flag wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    store: Path = Field(Path("models/store"), description="folder of models: NAME/VERSION/")
    model: str = Field("imdb", min_length=1, description="model that answers where a route names none")
    pins: str = Field(
        "",
        pattern=r"^(\w[\w.-]*=[1-9][0-9]*(,\w[\w.-]*=[1-9][0-9]*)*)?$",
        description="versions that serve of some models, as in imdb=1,topics=3, whatever higher ones there are",
    )
    watch: bool = Field(False, description="load what appears in the store, and what takes a higher number, by itself")
    keep_served: int = Field(
        0, ge=0, le=10_000, description="answered token sequences kept of each model, to try a new version on"
    )
    api_keys_file: Path | None = Field(
        None,
        description="file of the keys that may ask (Authorization: Bearer), read anew when it changes; none: all may",
    )
    admin_keys_file: Path | None = Field(
        None, description="file of the keys that may load and unload models; none: nobody may"
    )
    allow_anonymous: bool = Field(
        False, description="serve without keys on an address that others reach too, as behind a proxy that knows them"
    )
    rate_limit: float = Field(
        0, ge=0, le=1e6, description="requests a second of each key, or address where there are no keys; 0: no limit"
    )
    tls_cert_file: Path | None = Field(None, description="certificate chain (PEM): HTTPS instead of HTTP")
    tls_key_file: Path | None = Field(None, description="its private key (PEM), without a passphrase")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is a GPU, else cpu")
    engine: Literal["auto", "native", "packed"] = Field(
        "auto", description="auto: packed (torch) on cuda, native on the CPU; packed there too where that is not built"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where engine and CPU have it and a model's golden cases hold, else float32"
    )
    table_mb: int = Field(
        192,
        ge=0,
        description="MiB that the folded gate tables of all models may take; tokens beyond cost an input product",
    )
    threads: int = Field(0, ge=0, le=1024, description="engine threads; 0: one per usable core, one on a GPU")
    lanes: int = Field(
        64, ge=1, le=4096, description="sequences that an engine thread steps together, of each direction of each layer"
    )
    step_tokens: int = Field(8192, ge=1, description="tokens of one batch of the packed engine, or one longer sequence")
    max_tokens: int = Field(4096, ge=1, description="most tokens of one sequence; a model's own limit may be lower")
    max_sequences: int = Field(256, ge=1, description="most sequences of one request")
    max_text_bytes: int = Field(1 << 17, ge=1, description="most bytes of one text, in UTF-8, before it is tokenised")
    max_body_bytes: int = Field(4 << 20, ge=1, description="most bytes of one request body")
    max_header_bytes: int = Field(
        1 << 14, ge=1024, le=1 << 20, description="most bytes of a request before its body: request line and headers"
    )
    max_connections: int = Field(
        4096, ge=8, le=1 << 20, description="open connections; beyond them the one that has been idle longest is closed"
    )
    queue_tokens: int = Field(
        1 << 19,
        ge=1,
        description="tokens that may wait; a request beyond them is refused (429), but where nothing waits",
    )
    queue_requests: int = Field(768, ge=1, description="requests that may wait; one beyond them is refused (429)")
    explain_tokens: int = Field(
        1 << 18,
        ge=0,
        description="most that one request's explanations may compute: the tokens of each text squared, summed",
    )
    timeout_ms: int = Field(
        30_000, ge=1, le=86_400_000, description="time to answer a request; a client may ask for less, not more"
    )
    header_seconds: float = Field(10, gt=0, le=3600, description="time from a request's first byte to its headers' end")
    keep_alive_seconds: int = Field(
        75, ge=1, le=3600, description="time that an idle connection stays open; longer than a proxy before it keeps it"
    )
    drain_seconds: float = Field(1.0, ge=0, le=3600, description="time from SIGTERM (not ready) to the listener's end")
    shutdown_seconds: int = Field(30, ge=0, le=3600, description="time then given to requests in flight")
    stuck_seconds: float = Field(
        30,
        ge=1,
        le=3600,
        description="time that an engine thread may take for a step or a batch; beyond it the process ends",
    )
    traces: Literal["off", "otlp"] = Field(
        "off", description="otlp: send a trace of each request (OpenTelemetry), as the OTEL_* variables say"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.pinned) < len(_pairs(self.pins)):
            raise ValueError(f"{variable('pins')}={self.pins} names a model twice: one version of each serves")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(
                f"{variable('tls_cert_file')} and {variable('tls_key_file')} go together: set both, or none"
            )
        if not (self.api_keys_file or self.allow_anonymous or is_loopback(self.host)):
            raise ValueError(
                f"{variable('host')}={self.host} is reached from elsewhere, and anybody could ask: set "
                f"{variable('api_keys_file')}, or {variable('allow_anonymous')}=true if that is meant"
            )
        return self

    @property
    def pinned(self) -> dict[str, int]:
        """Version by model."""
        return {name: int(version) for name, version in _pairs(self.pins)}

    @classmethod
    def load(cls, arguments: Sequence[str], environment: Mapping[str, str], prog: str = PROG) -> Self:
        """Settings from the environment, overridden by flags; `prog`: how messages call the command.

        Raises SettingsError; exits as argparse does for ``--help``.
        """
        values: dict[str, str] = {}
        for name, value in environment.items():
            if name.startswith(PREFIX):
                values[_field(name, prog)] = value
        flags = {name: value for name, value in vars(_parser(prog).parse_args(arguments)).items() if value is not None}
        try:
            return cls.model_validate(values | flags)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if not first["loc"]:
                raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
            name = str(first["loc"][0])
            where = flag(name) if name in flags else variable(name)
            raise SettingsError(f"{where}={first['input']!r}: {first['msg']}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _pairs(pins: str) -> list[list[str]]:
    return [pin.split("=") for pin in pins.split(",") if pin]


def variable(name: str) -> str:
    return PREFIX + name.upper()


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _field(name: str, prog: str) -> str:
    field = name.removeprefix(PREFIX).lower()
    if field in Settings.model_fields and name == variable(field):
        return field
    raise SettingsError(f"{name}: unknown setting{_meant(field, variable)} ({prog} --help lists them)")


def _meant(word: str, spell: Callable[[str], str]) -> str:
    """A hint at the setting whose name is like `word`, in the spelling of variables or flags; empty without one."""
    near = difflib.get_close_matches(word, Settings.model_fields, n=1)
    return f"; did you mean {spell(near[0])}?" if near else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, with the flag that may be meant."""
        word = message.removeprefix("unrecognized arguments: --").split(" ")[0].split("=")[0].replace("-", "_")
        raise SettingsError(f"{message}{_meant(word, flag)} ({self.prog} --help lists the flags)")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,
        description="Serves recurrent sequence classifiers over HTTP.",
        epilog=f"Each flag is also an environment variable: --port is {PREFIX}PORT. Flags win.",
    )
    for name, info in Settings.model_fields.items():
        choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        metavar = "{" + ",".join(choices) + "}" if choices else "VALUE"
        parser.add_argument(flag(name), metavar=metavar, help=f"{info.description} (default: {info.default})")
    return parser
