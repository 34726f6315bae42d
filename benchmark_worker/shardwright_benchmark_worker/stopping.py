"""SIGTERM and SIGINT: the part in work is dropped, and the process is gone within seconds."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from types import FrameType

GRACE_S = 5.0
"""What unwinding may take; Kubernetes and torchrun kill after 30 s."""


class Stopped(SystemExit):
    """A signal asked this process to end; the exit status is 128 + its number, as of a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


def stop_on_signals(grace_s: float = GRACE_S) -> None:
    """Makes SIGTERM and SIGINT raise `Stopped` in the main thread.

    A main thread inside a kernel or a collective that lost its partners does not see an exception:
    the process ends all the same, `grace_s` seconds after the signal. Nothing half-written is
    visible then (`shardwright_costmodel.dataset`).
    """
    received, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise)
    # the socket lives as long as the thread, and the thread as long as the process
    watchdog = threading.Thread(
        target=_exit_after, args=(received, signalled, grace_s), name="stopping", daemon=True
    )
    watchdog.start()


def _raise(number: int, _frame: FrameType | None) -> None:
    # one unwinding is enough: a second signal is left to the watchdog
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stopped(number)


def _exit_after(received: socket.socket, _signalled: socket.socket, grace_s: float) -> None:
    """Waits for the number of a signal, which the interpreter sends even while C code runs."""
    while (number := received.recv(1)[0]) not in (signal.SIGTERM, signal.SIGINT):
        pass
    time.sleep(grace_s)
    os._exit(128 + number)
