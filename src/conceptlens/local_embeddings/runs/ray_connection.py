"""Connecting to a Ray cluster, or beginning one: what must hold, said in one sentence where it does not."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conceptlens.io.errors import InputError

# Seconds in which a cluster has to answer.
PATIENCE = 5.0
# An empty frame of settings after the preface of HTTP/2, in which Ray speaks; it answers with its own settings.
_GREETING, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or begin one that ends here; a connection that is there already is used and left."""
    ray = load_ray()
    if ray.is_initialized():
        known = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", known):
            raise InputError(f"this process is connected to the Ray cluster at {known} already, not to {address}")
        with _quiet():
            yield ray
        return
    with _quiet():
        place = address or os.environ.get("RAY_ADDRESS") or "local"
        own = {"include_dashboard": False} if place == "local" else {}
        try:
            with warnings.catch_warnings():  # of forks, by the store's library; what is forked here is another program
                warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                ray.init(address=place, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(f"no Ray cluster at '{place}' ({first_line(error)}); see `ray status`") from None
        try:
            with _silent(ray):
                yield ray
        finally:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, Ray Data's own log stays in its file: what matters of it is raised."""
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Within, Ray does not print the death of a worker on standard output, as it does whatever `log_to_driver` says."""
    place, name = ray._private.worker, "print_to_stdstream"
    before = getattr(place, name, None)
    setattr(place, name, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(place, name, before)


def check_answers(address: str) -> None:
    """Raise `InputError` where no Ray cluster answers: Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise InputError(f"'{address}' is no address of a Ray cluster; expected HOST:PORT, as 10.0.0.1:6379, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE) as line:
            line.settimeout(PATIENCE)
            line.sendall(_GREETING)
            answers = os.environ.get("RAY_USE_TLS") == "1" or line.recv(9)[3:4] == bytes([_SETTINGS])
    except (OSError, OverflowError):
        answers = False
    if not answers:
        raise InputError(
            f"no Ray cluster answers at {address}; start one with `ray start --head`, or give the address it prints"
        )


def check_room(ray: Any, workers: int, graphics: int) -> None:
    """Raise `InputError` where the cluster has fewer GPUs, or CPUs where no graphics are asked for, than workers."""
    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if workers > (gpus if graphics else cpus):
        needed = "one GPU" if graphics else "one CPU"
        raise InputError(
            f"{workers} workers were asked for and each needs {needed}, but the Ray cluster has {cpus} CPUs and "
            f"{gpus} GPUs; ask for fewer, or add nodes"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error, with its kind."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"[:300]


def load_ray() -> Any:
    """Return Ray, which tells nobody that it is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will be; without, Ray warns of it
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError('the engine ray needs Ray; install it with: pip install "conceptlens[ray]"') from None
    return ray
