"""Work in threads, for as many things at a time as keep them busy."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int, *, ahead: int = 1
) -> Iterator[Result]:
    """Call a function in threads; its results come in the order of the items, of which only some are held.

    Parameters
    ----------
    function : callable
        What is called.
    items : iterable
        With what; they are taken as they are needed.
    n_threads : int > 0
        Threads.
    ahead : int > 0
        Items that wait for each thread.
    """
    waiting, running = iter(items), deque[Future[Result]]()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="melzarr") as pool:
        try:
            while True:
                for item in itertools.islice(waiting, (1 + ahead) * n_threads - len(running)):
                    running.append(pool.submit(function, item))
                if not running:
                    return
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
