"""Ctrl-C changes nothing and leaves nothing: a short form of tests/interruptions.py."""

import signal
import threading
import warnings

import pytest

torch = pytest.importorskip("torch")

from chita_torch.interrupts import Transaction, whole  # noqa: E402
from tests import interruptions  # noqa: E402

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(),
    reason="signals are heard in the main thread alone",
)


@pytest.fixture(autouse=True)
def _heard():
    """A job in a shell's background ignores Ctrl-C; here it has to be heard."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("arguments", list(interruptions.trials(40, seed=1)))
def test_an_interrupt_at_any_line_changes_nothing(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fault, _ = interruptions.trial(*arguments)
    assert fault is None


class Logged(Transaction):
    def __init__(self, log, at_begin=False, at_end=False):
        super().__init__()
        self.log, self.at_begin, self.at_end = log, at_begin, at_end

    def begin(self):
        self.on_failure(self.log.append, "undone")
        if self.at_end:
            self.at_the_end(signal.raise_signal, signal.SIGINT)
        if self.at_begin:
            signal.raise_signal(signal.SIGINT)


def test_a_transaction_is_undone_wherever_the_interrupt_comes():
    before = signal.getsignal(signal.SIGINT)
    for options in ({}, {"at_begin": True}, {"at_end": True}):
        log = []

        def act(log=log, options=options):
            with Logged(log, **options):
                log.append("body")
                if not options:
                    signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            act()
        assert log[-1] == "undone"
        assert ("body" in log) is not options.get("at_begin", False)
        assert signal.getsignal(signal.SIGINT) is before


def test_what_is_whole_ends_before_the_interrupt_is_raised():
    log = []

    @whole
    def act():
        log.append(1)
        signal.raise_signal(signal.SIGINT)
        log.append(2)

    with pytest.raises(KeyboardInterrupt):
        act()
    assert log == [1, 2]


def test_a_handler_of_the_user_that_only_takes_note_stops_nothing():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        log = []
        with Logged(log, at_end=True):
            signal.raise_signal(signal.SIGINT)
        assert log == []
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGINT, before)
