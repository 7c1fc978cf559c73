"""A fitted model over HTTP: an image in, its score, decision and regions out. mode=serve runs it.

A request brings only an image's bytes, in its body: no name, and no path that would be opened.
"""

import asyncio
import logging
import threading
from typing import Any

from padim_lit.data.images import read_bytes
from padim_lit.data.sight import Sight
from padim_lit.deploy.predictor import Predictor
from padim_lit.errors import InputError, refusing, visible
from padim_lit.version import __version__

log = logging.getLogger(__name__)

#: Images received, waiting or scored at once, which limits their memory; more are answered 503.
#: Below the server's 40 threads, so that /health and /card find one.
AT_ONCE = 32
#: Time for a body to come, so that a client that sends none does not keep others out for good.
BODY_SECONDS = 60.0
_SEND = "send the image's bytes, as curl --data-binary does"


def make_app(predictor: Predictor, card: str, max_bytes: int) -> Any:
    """Return a FastAPI application.

    ``POST /predict`` takes the bytes of a PNG, JPEG, TIFF, BMP or WebP and gives score, p_value,
    decision ("anomalous", "good" or ""), threshold, width, height, seen, regions, see
    `padim_lit.deploy.regions.Region`, and model_sha256, see `Predictor`. Errors, with the reason as
    "detail" and in the log: 413 for a body beyond `max_bytes`, 422 for one that is no such image,
    503 beyond AT_ONCE requests, 408 for a body that has not come in BODY_SECONDS. ``GET /health``
    gives the state, ``GET /card`` the model card in Markdown.

    Args:
        predictor: scores one image after the other, however many are sent at once.
        card: the model card.
        max_bytes: the most of a body; a larger one is not read to its end.

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

    # No docs pages: they would load scripts from elsewhere.
    app = FastAPI(title="padim_lit", version=__version__, docs_url=None, redoc_url=None)
    one, in_work = threading.Lock(), 0
    which = {"model_sha256": predictor.model_sha256}
    sight = Sight(predictor.resize_crop)

    def refused(status: int, why: str, later: int | None = None) -> HTTPException:
        """Return an error to raise, and log it."""
        log.warning("answered %d: %s", status, visible(why))
        return HTTPException(status, why, None if later is None else {"Retry-After": str(later)})

    def score(content: bytearray) -> dict[str, Any]:
        with one:
            try:
                seen = predictor.see(read_bytes(content, _SEND))
            except InputError as error:
                raise refused(422, str(error)) from None
            (found,) = predictor.score([seen])
            sight.add("a request", found.view.size, seen.paged)
            for note in sight.news():
                log.warning("%s", note)
            return found.numbers() | which

    @app.get("/health")
    def health() -> dict[str, Any]:
        said = {"status": "ok", "version": __version__, "threshold": predictor.threshold}
        return said | {"in_work": in_work} | which

    @app.get("/card", response_class=PlainTextResponse)
    def show_card() -> PlainTextResponse:
        return PlainTextResponse(card, media_type="text/markdown; charset=utf-8")

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        nonlocal in_work
        if in_work >= AT_ONCE:
            said = f"{AT_ONCE} images are in work already; send this one again later"
            raise refused(503, said, later=1)
        in_work += 1
        try:
            try:
                with fail_after(BODY_SECONDS):
                    content = await receive(request)
            except TimeoutError:
                said = f"the image has not come within {BODY_SECONDS:g} s; send it again"
                raise refused(408, said) from None
            except asyncio.CancelledError:  # the server ends; would be a traceback
                said = "the server is ending; send the image again later"
                raise refused(503, said, later=10) from None
            except ClientDisconnect:  # nobody reads the answer; would be a traceback
                raise refused(400, "the image has not come whole") from None
            return await run_in_threadpool(score, content)
        finally:
            in_work -= 1

    async def receive(request: Request) -> bytearray:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > max_bytes:
                raise refused(413, f"the image is larger than {max_bytes} bytes")
        return content

    return app
