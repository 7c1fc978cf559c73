"""Work without root's rights, which may read and write everything."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

from padim_lit.cli.messages import one_line

_NOBODY = 65534


def without_rights(work: Callable[[], object]) -> str:
    """What `work` returns, as a text, or the line of its error, in a process of no user's.

    What it needs has to be imported, because the interpreter's own files may be root's alone.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_told, args=(work, sender))
    process.start()
    assert receiver.poll(60), "no answer"
    answer = receiver.recv()
    process.join()
    return answer


def _told(work: Callable[[], object], sender: Connection) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    try:
        sender.send(str(work()))
    except Exception as error:
        sender.send(f"error: {one_line(error)}")
