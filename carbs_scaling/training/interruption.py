"""A stop asked for by Ctrl-C or SIGTERM: noted at once, done between two steps, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a stop was asked for.

    Attributes:
        asked: true from the first signal on.
    """

    asked = False


@contextmanager
def stop_after_a_step(wanted: bool) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; the second does what it did before.

    Signals that the process ignores stay ignored. Outside of the main thread, where Python takes no signals,
    no request is made.

    Args:
        wanted: False leaves the signals as they are.
    """
    request = StopRequest()
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # None stands for a handler that was not installed by Python and cannot be put back.
    taken = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    if not wanted or threading.current_thread() is not threading.main_thread():
        taken = {}

    def give_back() -> None:
        for number, handler in taken.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        request.asked = True
        give_back()

    for number in taken:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        give_back()
