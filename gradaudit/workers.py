"""Many files at once: worker processes that share what was read before they were made, and results in order."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

SHARE = 300_000
"""Characters of text that are worth a process of their own."""

LEAST = 1_000_000
"""Less text than this is followed faster than processes are made."""

MESSAGES = 8_000
"""As many four-byte messages fit into a pipe, whoever made it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def processes(size: int, wanted: int | None = None) -> int:
    """How many processes to use for `size` characters of text; 1 where processes cannot be forked."""
    if not hasattr(os, "fork") or sys.platform == "darwin":
        return 1
    if wanted is not None:
        return max(wanted, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size < LEAST else max(1, min(cores, size // SHARE))


def spread(work: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """`work(item)` for every item, in order. What a worker that died did not do is done here."""
    if jobs <= 1 or len(items) < 2:
        yield from map(work, items)
        return
    step = -(-len(items) // MESSAGES)
    todo, give = os.pipe()
    os.write(give, b"".join(struct.pack("=I", first) for first in range(0, len(items), step)))
    os.close(give)
    workers = [_fork(work, items, step, todo) for _ in range(min(jobs, len(items)))]
    os.close(todo)
    done: dict[int, Result] = {}
    try:
        arriving: Iterator[dict[int, Result]] = _results(workers)
        for index, item in enumerate(items):
            while index not in done:
                more = next(arriving, None)
                if more is None:
                    done[index] = work(item)
                else:
                    done.update(more)
            yield done.pop(index)
    finally:
        for child, pipe in workers:
            os.close(pipe)
            _end(child)


def _fork(work: Callable[[Item], Result], items: Sequence[Item], step: int, todo: int) -> tuple[int, int]:
    """A worker: (its process, the pipe that its results come out of)."""
    import pickle

    out, into = os.pipe()
    child = os.fork()
    if child:
        os.close(into)
        return child, out
    code = 1
    try:
        os.close(out)
        with open(into, "wb") as stream:
            while message := os.read(todo, 4):
                (first,) = struct.unpack("=I", message)
                results = {index: work(items[index]) for index in range(first, min(first + step, len(items)))}
                data = pickle.dumps(results)
                stream.write(struct.pack("=Q", len(data)) + data)
                stream.flush()
        code = 0
    finally:
        os._exit(code)


def _results(workers: Sequence[tuple[int, int]]) -> Iterator[dict[int, Result]]:
    """What the workers send, as it comes, until they have all left."""
    import pickle
    import selectors

    waiting: dict[int, bytes] = {}
    with selectors.DefaultSelector() as selector:
        for _, pipe in workers:
            waiting[pipe] = b""
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                    continue
                waiting[key.fd] += data
                while len(waiting[key.fd]) >= 8:
                    (length,) = struct.unpack("=Q", waiting[key.fd][:8])
                    if len(waiting[key.fd]) < 8 + length:
                        break
                    message = waiting[key.fd][8 : 8 + length]
                    waiting[key.fd] = waiting[key.fd][8 + length :]
                    yield pickle.loads(message)  # noqa: S301 - our own worker's


def _end(child: int) -> None:
    """Take leave of a worker; one that still works is not needed any more."""
    import signal

    try:
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
    except (ChildProcessError, ProcessLookupError):
        pass
