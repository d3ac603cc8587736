"""The Hugging Face hub without long waits: out of reach means what is in the local cache, at once."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

# Seconds for a name lookup and a connection; the libraries' own retries take 20 to 50 s to find out.
PROBE_SECONDS = 3.0


def hub_in_reach() -> bool:
    """Whether the hub's host takes connections. Behind a proxy there is no telling, and the answer is yes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies() or "all" in getproxies():
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


@contextmanager
def quiet_hub() -> Iterator[bool]:
    """Silences the hub's log; out of reach, only its local cache is used. Yields whether it is in reach."""
    import datasets
    from huggingface_hub import constants

    reachable = hub_in_reach()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    offline = not reachable
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
    logger.setLevel(logging.CRITICAL)
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
        logger.setLevel(level)
