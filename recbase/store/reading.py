"""Reading a folder while others write it: a loader answers from one state of it, never from two.

Files are never changed in place, so whatever is read belongs together; only, a writer that replaces the folder removes
the old files, and a loader that has read the old manifest then finds them gone. It starts again with the new one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

__all__ = ["consistent", "note_opened"]

_TRIES = 100
_Loader = TypeVar("_Loader", bound=Callable[..., Any])


class _Opened(Protocol):
    @property
    def place(self) -> str: ...

    @property
    def state(self) -> tuple[int, ...] | None: ...

    def is_replaced(self) -> bool: ...


_OPENED: ContextVar[list[_Opened] | None] = ContextVar("opened", default=None)


def consistent(load: _Loader) -> _Loader:
    """Decorator of a function that reads folders: it runs again where a folder was replaced while it was read.

    A failure counts as the loader's own unless one of the folders it opened is another one by then. A loader that
    opened one folder in two states runs again, too.
    """

    @functools.wraps(load)
    def again(*args: Any, **kwargs: Any) -> Any:
        outer = _OPENED.get()
        for left in reversed(range(_TRIES)):
            opened: list[_Opened] = []
            token = _OPENED.set(opened)
            try:
                found = load(*args, **kwargs)
                if not left or len({folder.place for folder in opened}) == len(
                    {(folder.place, folder.state) for folder in opened}
                ):
                    if outer is not None:
                        outer.extend(opened)
                    return found
            except Exception:
                if not left or not any(folder.is_replaced() for folder in opened):
                    raise
            finally:
                _OPENED.reset(token)

    return cast(_Loader, again)


def note_opened(folder: _Opened) -> None:
    """Tell the loader that runs, if one does, that it reads this folder."""
    opened = _OPENED.get()
    if opened is not None:
        opened.append(folder)
