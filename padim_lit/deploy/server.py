"""A fitted model over HTTP: an image in, its score, decision and regions out. mode=serve runs it.

What comes in is the image alone, in the body: no name, and no path that anything here would open.
"""

import asyncio
import math
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

from padim_lit.data.images import read_bytes
from padim_lit.deploy.predictor import Predictor
from padim_lit.deploy.regions import Region
from padim_lit.errors import InputError, refusing, told
from padim_lit.version import __version__

#: Images received, waiting or scored at once, which bounds the memory that they take: more are told
#: to come later. Below the 40 threads that there are, so that /health and /card find one.
AT_ONCE = 32
#: In which a body must have come, so that who sends none does not keep others out for good.
BODY_SECONDS = 60.0
#: After an image that could not be scored `/health` says so for so long, or until one is.
ILL_SECONDS = 60.0
#: What a body may be, for clients that ask.
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"content": {"image/*": _IMAGE}}}
_SEND = "send the image's bytes, as curl --data-binary does"


@dataclass(frozen=True)
class AnswerRegion(Region):
    """A defect's place in pixels of the picture; peak and mean are Mahalanobis distances."""

    polygon: list[tuple[float, float]]


@dataclass
class Answer:
    """What one image got; threshold and what follows from it are empty where there is none."""

    score: float
    p_value: float | None
    decision: Literal["anomalous", "good", ""]
    threshold: float | None
    width: int
    height: int
    regions: list[AnswerRegion] | None
    model_sha256: str | None


@dataclass
class Health:
    """That it scores images, by which threshold it decides, and with which model."""

    status: Literal["ok"]
    version: str
    threshold: float | None
    model_sha256: str | None


@dataclass
class Refusal:
    """Why there is no answer, in a line."""

    detail: str


#: What an image may get instead of an answer.
_REFUSED: dict[int | str, dict[str, Any]] = {
    408: {"model": Refusal, "description": "The image has not come in time."},
    413: {"model": Refusal, "description": "The image is too large."},
    422: {"model": Refusal, "description": "This is no image that is read, or a parameter."},
    503: {"model": Refusal, "description": "Not now; send it again later."},
}


def make_app(predictor: Predictor, card: str, max_bytes: int) -> Any:
    """A FastAPI application.

    ``POST /predict`` takes the bytes of a PNG, JPEG, TIFF, BMP or WebP and gives score, p_value,
    decision ("anomalous", "good" or ""), threshold, width, height, regions, see
    `padim_lit.deploy.regions.Region`, and model_sha256, see `Predictor`; 413 for a larger body, 422
    for one that is no such image and for parameters, with the reason as "detail"; 503 beyond
    AT_ONCE requests and where the machine cannot score it, as a GPU that is full, and 408 for a
    body that has not come in
    BODY_SECONDS. ``GET /health``, 503 for a minute after an image that could not be scored, or
    until one is, and ``GET /card``, the model card in Markdown.

    Args:
        predictor: scores one image after the other, however many are sent at once.
        card: of the model.
        max_bytes: of a body; what is larger is not read to its end.

    Raises:
        InputError: FastAPI is not installed.

    >>> app = make_app(Predictor(detector, image_size=[64, 64], device="cpu"), "# card", 10**6)
    >>> sorted(app.openapi()["paths"])
    ['/card', '/health', '/predict']
    """
    what = "mode=serve needs FastAPI, which is not installed"
    with refusing(what, "run `pip install fastapi uvicorn`", ImportError):
        from anyio import fail_after
        from fastapi import FastAPI, HTTPException, Request
        from fastapi.concurrency import run_in_threadpool
        from fastapi.responses import PlainTextResponse
        from starlette.requests import ClientDisconnect

    # Its pages on the interface would load scripts from elsewhere.
    app = FastAPI(title="padim_lit", version=__version__, docs_url=None, redoc_url=None)
    one, room = threading.Lock(), asyncio.Semaphore(AT_ONCE)
    which = {"model_sha256": predictor.model_sha256}
    ill: tuple[float, str] | None = None  # when an image was not scored, though it is one, and why

    def score(content: bytearray) -> Any:
        nonlocal ill
        with one:
            seen = predictor.see(read_bytes(content, _SEND))
            try:
                (found,) = predictor.score([seen])
            except Exception as error:
                ill = time.monotonic(), told(error)
                if isinstance(error, InputError):  # the machine's fault and not the image's
                    raise HTTPException(503, told(error), {"Retry-After": "10"}) from error
                raise
            ill = None
            return found.numbers() | which

    @app.head("/health", include_in_schema=False)
    @app.get("/health", response_model=Health, responses={503: _REFUSED[503]})
    def health() -> Any:
        # A while later it may be well again, and who asks here first sends no image meanwhile.
        when, why = ill or (-math.inf, "")
        if time.monotonic() - when < ILL_SECONDS:
            raise HTTPException(503, f"an image could not be scored: {why}")
        said = {"status": "ok", "version": __version__, "threshold": predictor.threshold}
        return said | which

    @app.get("/card", response_class=PlainTextResponse)
    def show_card() -> PlainTextResponse:
        return PlainTextResponse(card, media_type="text/markdown; charset=utf-8")

    @app.post("/predict", response_model=Answer, responses=_REFUSED, openapi_extra=_BODY)
    async def predict(request: Request) -> Any:
        if request.query_params:  # else who asks for a threshold would believe that it decides
            names = ", ".join(request.query_params)
            raise HTTPException(
                422, f"no such parameter: {names}; leave it out, and start mode=serve with its keys"
            )
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise HTTPException(422, f"the request's body is a form, as of curl -F; {_SEND}")
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdecimal():
            require_small(int(length))  # before it takes a place
        if room.locked():
            said = f"{AT_ONCE} images are in work already; send this one again later"
            raise HTTPException(503, said, {"Retry-After": "1"})
        async with room:
            try:
                with fail_after(BODY_SECONDS):
                    content = await receive(request)
                if not content:
                    raise InputError(f"the request's body is empty; {_SEND}")
                return await run_in_threadpool(score, content)
            except TimeoutError:
                said = f"the image has not come within {BODY_SECONDS:g} s; send it again"
                raise HTTPException(408, said) from None
            except asyncio.CancelledError:  # would be a traceback; the server ends
                said = "the server is ending; send the image again later"
                raise HTTPException(503, said, {"Retry-After": "10"}) from None
            except ClientDisconnect:  # would be a traceback; nobody reads the answer
                raise HTTPException(400, "the image has not come whole") from None
            except InputError as error:
                raise HTTPException(422, str(error)) from None

    async def receive(request: Request) -> bytearray:
        content = bytearray()
        async for part in request.stream():
            content += part
            require_small(len(content))
        return content

    def require_small(size: int) -> None:
        if size > max_bytes:
            raise HTTPException(413, f"the image is larger than {max_bytes} bytes")

    return app
