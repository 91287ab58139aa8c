"""Work in threads: a function of many items, with only a few in flight, and a function beside other work."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int, *, ahead: int = 1
) -> Iterator[Result]:
    """Call a function in threads and yield the results in the order of the items; only a few items are held at a time.

    Parameters
    ----------
    function : callable
        Function of one item.
    items : iterable
        Arguments of the calls; they are taken only when needed.
    n_threads : int > 0
        Number of threads.
    ahead : int > 0
        Number of items that wait for each thread.
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


def in_order_once(function: Callable[[Item], Result], items: Iterable[Item], n_threads: int) -> Iterator[Result]:
    """Do the same as `in_order`, with one call for items that are equal and follow one another."""
    runs = ((item, sum(1 for _ in same)) for item, same in itertools.groupby(items))
    for result, count in in_order(lambda run: (function(run[0]), run[1]), runs, n_threads):
        yield from itertools.repeat(result, count)


@contextmanager
def done_beside(function: Callable[[], object]) -> Iterator[None]:
    """Call a function in a thread while the block runs; it has returned at the end of the block."""
    with ThreadPoolExecutor(1, thread_name_prefix="melzarr-beside") as pool:
        result = pool.submit(function)
        yield
        result.result()
