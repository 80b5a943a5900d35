"""Signals by which a job is asked to end: before a time limit's kill, or by ``scancel``."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# SIGHUP comes when the terminal is closed.
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def handled(handler: Callable, signals=ASKING) -> Iterator[None]:
    """Answer these signals with ``handler`` until the end of the block.

    Those that the process was started to ignore (``nohup``) stay ignored. Threads other than the
    main one can answer none: there nothing is changed.
    """
    before = {}
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    with contextlib.suppress(ValueError):
        before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def end(number: int, frame) -> None:
    """End the job, with one line; what is done is kept."""
    logger.error("error: ended by %s; what was finished is kept", signal.Signals(number).name)
    raise SystemExit(128 + number)


class Request:
    """Whether the job was asked to end, for one that first brings its work to a good point.

    Attributes
    ----------
    signal : name of the signal that came, or None.
    """

    def __init__(self):
        self.signal: str | None = None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Note the first signal, Ctrl-C included, instead of ending on it; end on the second."""
        with handled(self._note, (*ASKING, signal.SIGINT)):
            yield

    def _note(self, number: int, frame) -> None:
        if self.signal is not None:
            end(number, frame)
        self.signal = signal.Signals(number).name
        logger.info("%s: ending after this step", self.signal)
