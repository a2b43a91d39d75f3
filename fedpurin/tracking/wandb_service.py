"""W&B as a service that may be there or not: login, reachability, and its own process. Knows nothing of runs.

The client asks on a terminal for a login, waits for a server as long as it takes, and lives on behind a run that has
ended; here is what keeps each of that from happening to a run. Does not own: what is sent (wandb_run.py), what is done
when it fails (callbacks/tracking.py). `wandb` is imported only in functions.
"""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import queue
import signal
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

PROBE_SECONDS = 5.0
INIT_SECONDS = 8.0
"""How long a server may take to answer at all, and then to accept the run. With two seconds for ending W&B's process
and starting it again offline, a node without network has its offline run within twenty seconds."""


def has_login() -> bool:
    """Whether W&B would find credentials; it would ask for them on a terminal."""
    settings = _settings()
    if settings.api_key or any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    server = urlsplit(settings.base_url)
    names = [server.netloc, *(["api.wandb.ai"] if server.netloc.endswith("forge.coreweave.com") else [])]  # as W&B does
    try:
        stored = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(stored.authenticators(name) for name in names)


def is_reachable() -> bool:
    """Whether the W&B server, and not somebody in its place, answers within `PROBE_SECONDS`; through a proxy as well."""
    return _probe() is None


def _probe() -> str | None:
    """What is wrong with the server, in words; None where it answers."""
    answers: queue.Queue[str | None] = queue.Queue()
    settings = _settings()
    silent = f"{settings.base_url} does not answer from here"
    context = _tls(verified=not settings.insecure_disable_ssl)

    def ask() -> None:
        try:
            answers.put(None if _answers(settings.base_url, context) else silent)
        except ssl.SSLCertVerificationError as error:
            answers.put(
                f"{settings.base_url}: its certificate is not trusted ({error.verify_message}); name its authority in "
                "SSL_CERT_FILE, or set WANDB_INSECURE_DISABLE_SSL=true to trust whoever answers"
            )

    # Sockets have a time limit, finding their address has none.
    threading.Thread(target=ask, name="W&B probe", daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return silent


def _tls(*, verified: bool) -> ssl.SSLContext:
    """What W&B's client trusts: the system's authorities, the user's, and certifi's where Python finds none."""
    context = ssl.create_default_context()  # SSL_CERT_FILE's, where it is set
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        with contextlib.suppress(OSError):
            context.load_verify_locations(bundle)
    if not verified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif not context.cert_store_stats()["x509_ca"]:
        with contextlib.suppress(ImportError, OSError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context


def _answers(server: str, context: ssl.SSLContext) -> bool:
    """Whether a question to W&B is answered, if only with a refusal, and not with a page, which a portal shows.

    Raises:
        ssl.SSLCertVerificationError: by somebody whose certificate is not trusted.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "fedpurin"}
    request = Request(f"{server}/graphql", b'{"query": "{ viewer { id } }"}', headers)
    try:
        with urlopen(request, timeout=PROBE_SECONDS, context=context) as answer:
            return str(answer.headers.get_content_type()) != "text/html"
    except HTTPError:
        return True
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(cause := getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise cause from None
        return False


def choose_mode(wanted: str | None) -> str:
    """`online`, `offline` or `disabled`: what was asked for, else WANDB_MODE, else online with a login."""
    return wanted or os.environ.get("WANDB_MODE") or ("online" if has_login() else "offline")


def why_not_online() -> str | None:
    """What stands between this machine and W&B, in words; None where nothing does. Takes `PROBE_SECONDS` at most."""
    if not has_login():
        return "there is no login: run `wandb login`, or set WANDB_API_KEY"
    return _probe()


def forget_process() -> None:
    """End W&B's own process, dead or alive: its next use starts a new one, and an id is no longer in use."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it exits with what its process exits with
        wandb.teardown(exit_code=1)


def kill_process() -> None:
    """Kill W&B's own process. Left alone it would try for hours to reach a server, holding our terminal or pipe."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            run_id, _, rest = stat.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            if name == "wandb-core" and int(fields.split()[1]) == os.getpid():
                os.kill(int(run_id), signal.SIGKILL)


@contextlib.contextmanager
def silent_log() -> Iterator[None]:
    """W&B's log is a file of its own; on a full disk Python would print a traceback for every line of it."""
    asked, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = asked
        for handler in logging.getLogger("wandb").handlers:
            handler.handleError = lambda record: None  # type: ignore[method-assign]


def _settings() -> Any:
    """W&B's own view of its environment and settings files."""
    import wandb

    return wandb.setup().settings
