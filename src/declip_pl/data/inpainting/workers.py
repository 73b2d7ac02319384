"""Processes that make pictures, each photo in one of them."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

import cv2
import torch

from declip_pl.data.inpainting.inpainter import Inpainter
from declip_pl.data.inpainting.photos import Photo
from declip_pl.data.inpainting.picture import Plan, Result, forge_photo
from declip_pl.errors import UserError

Task = tuple[Photo, Photo | None]
"""A photo, and another one where the inpainter takes one."""


class _Maker:
    """Makes pictures in this process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.inpainter = Inpainter(plan.inpainter)

    def make(self, task: Task) -> Result:
        try:
            return forge_photo(self.plan, self.inpainter, *task)
        except UserError as error:
            path = str(task[0].path)
            raise error if path in str(error) else UserError(f"{path}: {error}") from error


_PLAN: list[Plan] = []
_MAKER: list[_Maker] = []
"""Those of a worker process."""


def results(plan: Plan, tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Yield what comes of photos, in any order.

    Args:
        plan: How they are made.
        tasks: The photos.
        workers: Processes; 1 for this one. The result does not depend on it, as each computes with
            one thread.

    Raises:
        UserError: If a picture can't be made, or a process ends.
    """
    if workers == 1 or len(tasks) == 1:
        with _one_thread():
            yield from map(_Maker(plan).make, tasks)
        return
    # Not forked: torch, OpenCV and onnxruntime may hold threads and a GPU.
    context = get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=_start, initargs=(plan,)
    ) as pool:
        try:
            for task in as_completed([pool.submit(_make, task) for task in tasks]):
                yield task.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process ended: there may be too little memory; finished photos are kept, "
                "start again with fewer (--workers)"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(plan: Plan) -> None:
    _PLAN.append(plan)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it was killed, which tells nobody."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(task: Task) -> Result:
    if not _MAKER:  # here rather than at the start, where errors are lost
        _MAKER.append(_Maker(_PLAN[0]))
    return _MAKER[0].make(task)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
