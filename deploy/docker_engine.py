"""Commands to the Docker engine, and requests to the service it runs, for check-container."""
# ruff: noqa: S603, S607 -- the commands are the script's own, and docker is whichever comes first

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
from datetime import datetime
from typing import Any


class Failed(Exception):
    """Something is not as it should be; the message is one line."""


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Failed(otherwise)


def step(name: str) -> None:
    print(f"--- {name}", flush=True)


def missing() -> str:
    """Why the check cannot run here; empty if it can."""
    if shutil.which("docker") is None:
        return "no docker command here"
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "no Docker engine answers here"
    return "" if compose_command() else "neither docker compose nor docker-compose is here"


def compose_command() -> list[str]:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def run(command: list[str]) -> None:
    """Runs a command that shows its own output."""
    if status := subprocess.run(command).returncode:
        raise Failed(f"{' '.join(command[:3])} ... ended with status {status}")


def output(command: list[str], *, may_fail: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and not may_fail:
        raise Failed(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def refusal(command: list[str]) -> str:
    """The last line of a command that ends with status 2."""
    done = subprocess.run(command, capture_output=True, text=True)
    require(done.returncode == 2, f"{' '.join(command)} ended with status {done.returncode}, not 2: {done.stderr}")
    return done.stderr.splitlines()[-1]


def inspect(container: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(output(["docker", "inspect", container]))[0]
    return document


def inside(container: str, code: str) -> str:
    """What `code` prints in the container, run as the service's user."""
    return output(["docker", "exec", container, "python", "-c", code]).strip()


def image_size(image: str) -> int:
    return int(output(["docker", "image", "inspect", "--format", "{{.Size}}", image]))


def started_at(container: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(inspect(container)["State"]["StartedAt"]).timestamp()


def ask(method: str, path: str, body: object = None, *, key: str = "") -> tuple[int, bytes]:
    """Status and body of the reply. Raises OSError where nothing answers."""
    address = "127.0.0.1", int(os.environ["LSTMSERVE_PORT"])
    connection = http.client.HTTPConnection(*address, timeout=30)
    if "LSTMSERVE_TLS_CERT_FILE" in os.environ:  # which is for another name than this
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(*address, timeout=30, context=context)
    headers = {"Content-Type": "application/json"} if body else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP reply: {error!r}") from error
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
