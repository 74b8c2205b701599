"""The processes of one launch: which of them writes and prints, work that one does alone, and how all of them end."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["alone", "is_main_process", "launched_processes", "leave_at_once", "leave_launch", "process_count"]

_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_working_alone = False


def is_main_process() -> bool:
    """True where this process is the one that writes and prints (the only one, or rank 0 of a launch)."""
    return int(os.environ.get("RANK", "0")) == 0


def launched_processes() -> int:
    """Number of processes that this one was launched with, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_count() -> int:
    """Number of processes that work together now: 1 inside `alone`, else the size of torch's process group."""
    import torch.distributed as dist

    if _working_alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return int(dist.get_world_size())


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work as if it had been started alone: accelerators made inside it wait for no other process.

    What a launch of several processes needs first (embeddings, tokenizers, other models' vectors) is made this way by
    one of them while the others wait for its lock; a training that spanned them all would wait for those that wait.
    """
    global _working_alone
    from accelerate.state import AcceleratorState, GradientState, PartialState

    hidden = {name: os.environ.pop(name) for name in _LAUNCH if name in os.environ}
    states = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    kept = [dict(state) for state in states]
    outer, _working_alone = _working_alone, True
    try:
        if hidden and not outer:
            for state in states:
                state.clear()
        yield
    finally:
        _working_alone = outer
        os.environ.update(hidden)
        if hidden and not outer:
            for state, content in zip(states, kept, strict=True):
                state.clear()
                state.update(content)


def leave_at_once(code: int) -> None:
    """End a process of a launch without waiting for the others; return at once where there is only one process."""
    if launched_processes() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def leave_launch() -> None:
    """End a process of a launch, successfully; return at once where there is only one process.

    DistributedDataParallel keeps its process group, and so gloo's threads, alive past ``destroy_process_group``; a
    regular exit then sometimes aborts while the interpreter is torn down. Everything is on disk by now: meet the
    others, close the group, flush, and leave without the teardown.
    """
    if launched_processes() == 1:
        return
    from accelerate import PartialState

    state = PartialState()
    state.wait_for_everyone()
    gc.collect()
    state.destroy_process_group()
    leave_at_once(0)
