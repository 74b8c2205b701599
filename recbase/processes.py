"""The processes of one launch: which of them writes and prints, and how all of them end."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["is_main_process", "leave_launch"]


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints (the only one, or rank 0 of a launch)."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_launch() -> None:
    """End a process of a launch, successfully; return at once where there is only one process.

    DistributedDataParallel keeps its process group, and so gloo's threads, alive past ``destroy_process_group``; a
    regular exit then sometimes aborts while the interpreter is torn down. Everything is on disk by now: meet the
    others, close the group, flush, and leave without the teardown.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    from accelerate import PartialState

    state = PartialState()
    state.wait_for_everyone()
    gc.collect()
    state.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
