"""Connections to a Ray cluster, or a new one on this machine; each failure is one sentence."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conceptlens.io.errors import InputError, first_line

CONNECT_SECONDS = 5.0  # in which a cluster has to answer


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start one that ends with the block; an existing connection is used and left open."""
    ray = load_ray()
    if ray.is_initialized():
        known = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", known):
            raise InputError(f"this process is connected to the Ray cluster at {known} already, not to {address}")
        with _quiet():
            yield ray
        return
    with _quiet():
        target = address or os.environ.get("RAY_ADDRESS") or "local"
        own = {"include_dashboard": False} if target == "local" else {}
        try:
            with warnings.catch_warnings():  # of forks, by the store's library; what is forked here is another program
                warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
                ray.init(address=target, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(f"no Ray cluster at '{target}' ({first_line(error)}); see `ray status`") from None
        try:
            with _silent(ray):
                yield ray
        finally:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's log off the terminal; errors are raised."""
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Keep Ray from printing the death of a worker on standard output, which `log_to_driver` does not stop."""
    module, name = ray._private.worker, "print_to_stdstream"
    before = getattr(module, name, None)
    setattr(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(module, name, before)


def check_address(address: str) -> None:
    """Raise `InputError` where no gRPC server, as of a Ray cluster, answers in seconds: Ray waits for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise InputError(f"'{address}' is no address of a Ray cluster; expected HOST:PORT, as 10.0.0.1:6379, or auto")
    if os.environ.get("RAY_USE_TLS") != "1" and not _answers(address):
        raise InputError(
            f"no Ray cluster answers at {address}; start one with `ray start --head`, or give the address it prints"
        )


def _answers(address: str) -> bool:
    import grpc

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def check_resources(ray: Any, workers: int, gpu: bool) -> None:
    """Raise `InputError` where the cluster has fewer GPUs (or CPUs, where `gpu` is False) than workers."""
    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if workers > (gpus if gpu else cpus):
        needed = "one GPU" if gpu else "one CPU"
        raise InputError(
            f"{workers} workers need {needed} each, but the Ray cluster has {cpus} CPUs and "
            f"{gpus} GPUs; take fewer workers, or add nodes"
        )


def load_ray() -> Any:
    """Import Ray with its usage statistics off, unless the environment sets them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # Ray's future default; it warns where this is unset
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import grpc as grpc
        import ray
        import ray.data
    except ImportError:
        raise InputError('the engine ray needs Ray; install it with: pip install "conceptlens[ray]"') from None
    return ray
