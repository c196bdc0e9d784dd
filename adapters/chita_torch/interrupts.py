"""Ctrl-C and what has to be done whole: work that is finished before it is heard.

Python raises KeyboardInterrupt between any two bytecodes of the main thread: also in
the code that puts a model back after the first one, and in the exits of the context
managers of torch, which then leave gradients switched off. Here the handler of SIGINT
is replaced for a time by one that looks where the program is:

- in a function marked `whole` the interrupt is kept, and raised when that is done;
- in ``__enter__`` or ``__exit__`` of anything, called since a `Transaction` began, it
  is asked for again a millisecond later;
- elsewhere it is what it was.

What it looks at is the stack, so that there is no moment between "not yet" and "from
here on". Other threads are never interrupted, and need none of this.
"""

from __future__ import annotations

import _thread
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

AGAIN = 1e-3  # seconds after which an interrupt that came at a bad moment is repeated


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function end before Ctrl-C is raised. It should be short."""

    @functools.wraps(function)
    def uninterrupted(*args: P.args, **kwargs: P.kwargs) -> R:
        mine = _handler.acquire()
        try:
            return function(*args, **kwargs)
        finally:
            if mine:
                _handler.release(sys._getframe(1))

    return uninterrupted


_WHOLE = whole(lambda: None).__code__


class _Handler:
    """What stands in for the user's handler of SIGINT, while anything asks for it."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, FrameType | None]] = []
        self.begun: list[FrameType] = []  # where transactions have begun
        self.rollback: Callable[[], object] = int  # if `kept` is raised
        self._users = 0
        self._previous: Any = None

    def acquire(self) -> bool:
        """Install the handler, if Ctrl-C can arrive in this thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if self._users == 0:
            previous = signal.getsignal(signal.SIGINT)
            if not callable(previous):  # ignored, or the end of the process
                return False
            self._previous = previous
            signal.signal(signal.SIGINT, self)
        self._users += 1
        return True

    def release(self, frame: FrameType | None = None) -> None:
        """Undo one `acquire`; then do what was kept, unless `frame` is whole too."""
        rollback, self.rollback = self.rollback, int
        self._users -= 1
        installed: object = signal.getsignal(signal.SIGINT)
        try:
            if self._users == 0 and installed is self:
                signal.signal(signal.SIGINT, self._previous)
            if frame is None or (self.kept and _is_whole(frame)):
                self.rollback = rollback  # for the one that does what was kept
            elif self.kept:
                last = self.kept[-1]
                self.kept.clear()
                self._previous(*last)
        except BaseException:
            rollback()
            raise

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Keep the signal, have it repeated, or do what the user has asked for."""
        if _is_whole(frame):
            self.kept.append((signum, frame))
        elif self.begun and _is_gate(frame, self.begun[-1]):
            # (Not threading.Thread, whose locks the interrupted code may hold.)
            _thread.start_new_thread(_repeat, (signum,))
        else:
            self._previous(signum, frame)


def _is_whole(frame: FrameType | None) -> bool:
    """Whether a frame belongs to something that is to be done whole."""
    while frame is not None:
        if frame.f_code is _WHOLE:
            return True
        frame = frame.f_back
    return False


def _is_gate(frame: FrameType | None, begun: FrameType) -> bool:
    """Whether a frame belongs to the entry or exit of a context, since a beginning."""
    while frame is not None and frame is not begun:
        if frame.f_code.co_name in ("__enter__", "__exit__"):
            return True
        frame = frame.f_back
    return False


def _repeat(signum: int) -> None:
    time.sleep(AGAIN)
    _thread.interrupt_main(signal.Signals(signum))


_handler = _Handler()


class Transaction:
    """A ``with`` statement that happens as a whole or not at all.

    What `on_failure` was given is called, last first, if its body raises, and so it is
    if Ctrl-C arrives while the statement ends; what `at_the_end` was given is called in
    either case, after that, last first. Both should be short, and neither is
    interrupted.
    """

    def __init__(self) -> None:
        self._failure, self._end = ExitStack(), ExitStack()
        self._installed = False
        self.on_failure, self.at_the_end = self._failure.callback, self._end.callback
        self.within = self._end.enter_context  # a context that lasts to the end

    def begin(self) -> None:
        """Called as the statement begins: overridden by what is a transaction of."""

    def __enter__(self) -> Self:
        try:
            self._open(sys._getframe(1))
            return self
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    @whole
    def _open(self, frame: FrameType) -> None:
        self._installed = _handler.acquire()
        if self._installed:
            _handler.begun.append(frame)
        self.begin()

    @whole
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None or (self._installed and _handler.kept):
                self._failure.close()
        finally:
            self._end.close()
            if self._installed:
                self._installed = False
                _handler.begun.pop()
                if kind is None:
                    _handler.rollback = self._failure.close
                _handler.release()
