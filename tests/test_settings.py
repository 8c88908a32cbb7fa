"""The table of settings: every field by environment and by flag."""

from pathlib import Path

import pytest

from service.settings import PREFIX, Settings, SettingsError, flag, variable

OTHER = {
    "host": ("localhost", "localhost"),
    "port": ("9000", 9000),
    "store": ("/models", Path("/models")),
    "model": ("reviews", "reviews"),
    "pins": ("imdb=2,trec=1", "imdb=2,trec=1"),
    "watch": ("true", True),
    "keep_served": ("100", 100),
    "api_keys_file": ("/run/secrets/keys", Path("/run/secrets/keys")),
    "admin_keys_file": ("/run/secrets/admin", Path("/run/secrets/admin")),
    "allow_anonymous": ("true", True),
    "rate_limit": ("2.5", 2.5),
    "tls_cert_file": ("/run/secrets/cert.pem", Path("/run/secrets/cert.pem")),
    "tls_key_file": ("/run/secrets/key.pem", Path("/run/secrets/key.pem")),
    "device": ("cpu", "cpu"),
    "engine": ("packed", "packed"),
    "precision": ("bfloat16", "bfloat16"),
    "table_mb": ("0", 0),
    "threads": ("3", 3),
    "lanes": ("7", 7),
    "step_tokens": ("512", 512),
    "max_tokens": ("128", 128),
    "max_sequences": ("9", 9),
    "max_text_bytes": ("500", 500),
    "max_body_bytes": ("1000", 1000),
    "max_header_bytes": ("2000", 2000),
    "max_connections": ("100", 100),
    "queue_tokens": ("2000000", 2_000_000),
    "queue_requests": ("50", 50),
    "explain_tokens": ("10000", 10_000),
    "timeout_ms": ("250", 250),
    "header_seconds": ("2.5", 2.5),
    "keep_alive_seconds": ("5", 5),
    "drain_seconds": ("0.5", 0.5),
    "shutdown_seconds": ("4", 4),
    "stuck_seconds": ("60", 60),
    "log_level": ("debug", "debug"),
    "traces": ("otlp", "otlp"),
}
"""For each field a value other than its default, as text and as read."""

PAIRS = {"tls_cert_file": "tls_key_file", "tls_key_file": "tls_cert_file"}
"""What must be set with it."""


def load(*arguments: str, **environment: str) -> Settings:
    return Settings.load(arguments, environment)


def test_the_defaults() -> None:
    assert load(PATH="/bin", LSTM_SERVE_PORT="tcp://10.0.0.1:80") == Settings()
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.max_tokens, settings.max_sequences, settings.max_body_bytes) == (4096, 256, 4 << 20)


def test_every_field_is_here() -> None:
    assert OTHER.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize("name", OTHER)
def test_by_environment_and_by_flag(name: str) -> None:
    text, value = OTHER[name]
    assert getattr(Settings(), name) != value
    other = PAIRS.get(name)
    with_it = {variable(other): OTHER[other][0]} if other else {}
    expected = Settings().model_copy(update={name: value} | ({other: OTHER[other][1]} if other else {}))
    assert Settings.load([], {variable(name): text, **with_it}) == expected
    assert Settings.load([flag(name), text], with_it) == expected
    assert Settings.load([f"{flag(name)}={text}"], with_it) == expected


def test_the_flag_wins() -> None:
    assert load("--port", "2", LSTMSERVE_PORT="1", LSTMSERVE_LANES="5") == Settings(port=2, lanes=5)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LSTMSERVE_PROT", "did you mean LSTMSERVE_PORT?"),
        ("LSTMSERVE_MAX_TOKEN", "did you mean LSTMSERVE_MAX_TOKENS?"),
        ("LSTMSERVE_port", "did you mean LSTMSERVE_PORT?"),
        ("LSTMSERVE_MODEL_CONFIG", "unknown setting"),
        ("LSTMSERVE_", "unknown setting"),
        ("LSTMSERVE_XYZZY_QUUX", "unknown setting (python -m service --help lists them)"),
    ],
)
def test_an_unknown_variable_is_refused(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load([], {name: "1"})
    assert str(caught.value).startswith(f"{name}: ")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; did you mean --port? (python -m service --help"),
        (["--max-token=1"], "unrecognized arguments: --max-token=1; did you mean --max-tokens? ("),
        (["--xyzzy"], "unrecognized arguments: --xyzzy (python -m service --help lists the flags)"),
        (["--port"], "argument --port: expected one argument (python -m service --help"),
    ],
)
def test_an_unknown_flag_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(*flags)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("host", ""),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("port", ""),
        ("model", ""),
        ("device", "gpu"),
        ("engine", "torch"),
        ("precision", "float16"),
        ("table_mb", "-1"),
        ("threads", "1025"),
        ("lanes", "0"),
        ("step_tokens", "0"),
        ("max_tokens", "0"),
        ("max_sequences", "1.5"),
        ("max_body_bytes", "4MB"),
        ("queue_tokens", "0"),
        ("timeout_ms", "0"),
        ("timeout_ms", "86400001"),
        ("drain_seconds", "nan"),
        ("drain_seconds", "-0.1"),
        ("shutdown_seconds", "3601"),
        ("log_level", "loud"),
        ("log_level", "a\nb"),
    ],
)
def test_out_of_bounds_names_where_it_was_set(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as by_environment:
        Settings.load([], {variable(name): text})
    assert str(by_environment.value).startswith(f"{variable(name)}=")
    assert PREFIX + name.upper() == variable(name)
    with pytest.raises(SettingsError) as by_flag:
        Settings.load([f"{flag(name)}={text}"], {variable(name): OTHER[name][0]})
    assert str(by_flag.value).startswith(f"{flag(name)}=")
    for error in (by_environment, by_flag):
        assert len(str(error.value).splitlines()) == 1


def test_pins_are_versions_by_model() -> None:
    assert load().pinned == {}
    assert load("--pins", "imdb=2,trec-6=10").pinned == {"imdb": 2, "trec-6": 10}
    for wrong in ("imdb", "imdb=", "imdb=0", "imdb=1,", "imdb=x", "=1", "imdb=1;trec=2"):
        with pytest.raises(SettingsError, match="--pins="):
            load("--pins", wrong)


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    choices = {
        "device": "{auto,cpu,cuda}",
        "engine": "{auto,native,packed}",
        "precision": "{auto,float32,bfloat16}",
        "traces": "{off,otlp}",
        "log_level": "{debug,info,warning,error}",
    }
    for name, info in Settings.model_fields.items():
        metavar = choices.get(name, "VALUE")
        assert f"{flag(name)} {metavar}" in text
        assert info.description
        assert f"{info.description} (default: {info.default})" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_only_this_machine_needs_no_keys(host: str) -> None:
    assert load("--host", host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_an_address_that_others_reach_needs_keys_or_consent(host: str) -> None:
    with pytest.raises(SettingsError, match=f"^LSTMSERVE_HOST={host} .*LSTMSERVE_API_KEYS_FILE.*ALLOW_ANONYMOUS=true"):
        load("--host", host)
    assert load("--host", host, "--allow-anonymous", "true").allow_anonymous
    assert load("--host", host, "--api-keys-file", "/keys").host == host


@pytest.mark.parametrize("name", PAIRS)
def test_certificate_and_key_go_together(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable(name)}.*both"):
        Settings.load([], {variable(name): "x.pem"})
