"""A recommender served until a signal ends it. Needs the extra ``[serve]``: FastAPI and uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from recbase.console import say
from recbase.serving.service import Bounds, Loader, Service

__all__ = ["run_service"]


def run_service(
    load: Loader,
    host: str = "127.0.0.1",
    port: int = 8000,
    bounds: Bounds | None = None,
    answer: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> None:
    """Serve a model over HTTP until a signal ends it.

    Parameters
    ----------
    load : callable
        Opens the run folder; called now and at every ``POST /reload``.
    host : str, default "127.0.0.1"
        Address to listen on; this machine alone can ask by default.
    port : int, default 8000
        0 takes any that is free.
    bounds : Bounds, optional
    answer : mapping, optional
        Options of `FittedRecommender.recommend` that the server fixes.
    quiet : bool, default False
        Do not print the address.

    Raises
    ------
    ImportError
        If FastAPI or uvicorn is not installed.
    OSError
        If the address is taken, or is none of this machine.
    """
    try:
        import uvicorn

        from recbase.serving.web import application
    except ImportError as error:
        raise ImportError("serving needs FastAPI and uvicorn: install them with pip install 'semtok[serve]'") from error
    app = application(Service(load, answer), bounds)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)  # from now on requests wait instead of being refused
        except (OSError, UnicodeError) as error:
            raise OSError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
        if not quiet:
            address, taken = listener.getsockname()[:2]
            say(f"Serving on http://{address}:{taken} ({app.description}); /docs describes it", err=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
