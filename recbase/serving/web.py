"""HTTP around a `recbase.serving.service.Service`: an ASGI application for uvicorn or any other server.

Needs FastAPI (extra ``[serve]``). Everything is answered in JSON, errors too, as ``{"detail": sentence}``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from recbase.serving.messages import About, Answer, Question
from recbase.serving.service import Bounds, Service

__all__ = ["application"]


class _Turns:
    """Requests that are computed, and those that wait for it."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.taken = bounds, 0
        self.turn = asyncio.Semaphore(bounds.workers)

    async def __call__(self) -> Any:
        """Wait for a turn, and hold it while the request is answered."""
        if self.taken >= self.bounds.waiting:
            raise HTTPException(503, "too many requests are waiting; try again later", {"Retry-After": "1"})
        self.taken += 1
        try:
            async with self.turn:
                yield
        finally:
            self.taken -= 1


def application(service: Service, bounds: Bounds | None = None) -> FastAPI:
    """ASGI application of a service.

    Parameters
    ----------
    service : Service
    bounds : Bounds, optional
    """
    bounds = bounds or Bounds()
    about = service.about()
    app = FastAPI(title="Recommendations", description=f"{about['model']} of {about['items']:,} items")
    _bound(app, bounds)
    _tell(app, service)
    _answer(app, service, bounds)
    return app


def _bound(app: FastAPI, bounds: Bounds) -> None:
    """Refuse what is too large before it is read, and answer what fails in JSON."""

    @app.middleware("http")
    async def bounded(request: Request, proceed: Any) -> Any:
        length = request.headers.get("content-length")
        if request.method == "POST" and (length is None or not length.isdigit()):
            return JSONResponse({"detail": "a request must say its length (Content-Length)"}, 411)
        if length is not None and length.isdigit() and int(length) > bounds.most_bytes:
            said = f"a request of {int(length):,} bytes is too large; at most {bounds.most_bytes:,}"
            return JSONResponse({"detail": said}, 413)
        return await proceed(request)

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse({"detail": f"{place or 'the request'}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"{type(error).__name__} while answering"}, 500)


def _tell(app: FastAPI, service: Service) -> None:
    """Routes that tell of the server and its model, and take a new one into use."""
    one_at_a_time = asyncio.Lock()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the server is up."""
        return {"status": "ok"}

    @app.get("/model")
    async def model() -> About:
        """Tell which model answers."""
        return About(**service.about())

    @app.post("/reload")
    async def reload() -> About:
        """Open the folder again and take what is there into use; requests go on being answered meanwhile."""
        async with one_at_a_time:
            try:
                return About(**await run_in_threadpool(service.reload))
            except (OSError, ValueError) as error:
                raise HTTPException(409, f"the old model stays in use: {error}") from error


def _answer(app: FastAPI, service: Service, bounds: Bounds) -> None:
    """The route that recommends."""

    def check(question: Question) -> None:
        if (many := len(question.histories)) > bounds.most_histories:
            said = f"{many:,} histories are too many for one request; at most {bounds.most_histories:,}"
            raise HTTPException(422, said)
        if question.k > bounds.most_items:
            raise HTTPException(422, f"k={question.k} is too long a list; at most {bounds.most_items:,}")

    turns = Depends(_Turns(bounds), scope="function")

    @app.post("/recommend", dependencies=[turns])
    async def recommend(question: Question) -> Answer:
        """Recommend items for every history, the best first."""
        check(question)
        histories = [[str(item) for item in history] for history in question.histories]
        filters: dict[str, Any] = {
            name: None if ids is None else [str(item) for item in ids]
            for name, ids in (("exclude", question.exclude), ("only", question.only))
        }
        try:
            found = await run_in_threadpool(
                service.recommend, histories, question.k, question.keep_seen, strict=question.strict, **filters
            )
        except (ValueError, TypeError) as error:
            raise HTTPException(422, str(error)) from error
        return Answer(**found)
