"""A fitted model over HTTP: an image in, its score, decision and regions out. mode=serve runs it.

What comes in is the image alone, in the body: no name, and no path that anything here would open.
"""

import threading
from typing import Any

from padim_lit.data.images import read_bytes
from padim_lit.deploy.predictor import Predictor
from padim_lit.errors import InputError, refusing
from padim_lit.version import __version__

#: What a body may be, for clients that ask.
_BODY = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}


def make_app(predictor: Predictor, card: str, max_bytes: int) -> Any:
    """A FastAPI application.

    ``POST /predict`` takes the bytes of a PNG, JPEG, TIFF or BMP and gives score, p_value, decision
    ("anomalous", "good" or ""), threshold, width, height and regions, see
    `padim_lit.deploy.regions.Region`; 413 for a larger body, 422 for one that is no such image,
    with the reason as "detail". ``GET /health`` and ``GET /card``, the model card in Markdown.

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
    with refusing(what, "run `pip install 'padim_lit[serve]'`", ImportError):
        from fastapi import FastAPI, HTTPException, Request
        from fastapi.concurrency import run_in_threadpool
        from fastapi.responses import PlainTextResponse

    # Its pages on the interface would load scripts from elsewhere.
    app = FastAPI(title="padim_lit", version=__version__, docs_url=None, redoc_url=None)
    one = threading.Lock()

    def score(content: bytes) -> dict[str, Any]:
        with one:
            return predictor(read_bytes(content)).numbers()

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "threshold": predictor.threshold}

    @app.get("/card", response_class=PlainTextResponse)
    def show_card() -> PlainTextResponse:
        return PlainTextResponse(card, media_type="text/markdown; charset=utf-8")

    @app.post("/predict", openapi_extra={"requestBody": _BODY})
    async def predict(request: Request) -> dict[str, Any]:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > max_bytes:
                raise HTTPException(413, f"the image is larger than {max_bytes} bytes")
        try:
            return await run_in_threadpool(score, bytes(content))
        except InputError as error:
            raise HTTPException(422, str(error)) from None

    return app
