"""mode=serve: a model over HTTP, until Ctrl-C."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_lit.cli.build import make_predictor
from padim_lit.cli.settings import Deciding
from padim_lit.deploy.model_card import is_card_of, model_card
from padim_lit.deploy.server import make_app
from padim_lit.errors import refusing
from padim_lit.system.atomic import write_json
from padim_lit.system.console import print_facts
from padim_lit.system.paths import typed_path
from padim_lit.system.versions import written_with

#: After SIGTERM or Ctrl-C what is in work has so long: enough for the images that are taken at
#: once, and less than the 10 after which Docker kills.
GRACE_SECONDS = 8


@dataclass
class Serve(Deciding):
    """A model over HTTP: POST an image to /predict.

    Args:
        host: address to listen at; 0.0.0.0: all of this machine's
        port: port to listen at
        max_mb: largest image that is taken, in megabytes
    """

    mode: str = "serve"
    host: str = "127.0.0.1"
    port: int = 8000
    max_mb: float = 32.0


def run(settings: Serve, folder: Path) -> None:
    """Serve ``settings.ckpt`` until Ctrl-C.

    Raises:
        InputError: a config or checkpoint that cannot be used, or an address that is taken.
    """
    predictor = make_predictor(settings, live=True)
    sha256, text = predictor.model_sha256, ""
    with suppress(OSError):
        text = typed_path(settings.ckpt).with_name("model_card.md").read_text("utf-8", "replace")
    # Beside a card may lie another model by now; of its own one it says what was tested, too.
    text = text if is_card_of(text, sha256) else model_card(predictor.detector, sha256)
    for key in ("threshold", "false_alarm_rate"):
        if (given := getattr(settings, key)) is not None:
            source = predictor.threshold_source
            text = f"Served with {key}={given}: {source}.\n\nAbout the model itself:\n\n{text}"
    server = make_server(make_app(predictor, text, int(1e6 * settings.max_mb)))

    what = f"host={settings.host}, port={settings.port}: cannot be listened at"
    with refusing(what, "choose another port or host", OSError):
        listener = socket.create_server((settings.host, settings.port))
    address = f"http://{settings.host}:{settings.port}"
    keys = ("threshold", "threshold_source", "model_sha256")
    facts = {"ckpt": settings.ckpt, "address": address}
    facts |= {key: getattr(predictor, key) for key in keys}
    write_json(folder / "serve.json", {**facts, **written_with(predictor.device)})
    print_facts(
        ("serving", f"{address}/predict, /health and /card; Ctrl-C ends it"),
        ("try", f"curl --data-binary @part.png {address}/predict"),
        ("decides", f"by {predictor.threshold_source}"),
    )
    with listener:
        server.run(sockets=[listener])


def make_server(app: Any) -> Any:
    """A uvicorn server for the app."""
    import uvicorn

    # Without its limit_concurrency, which counts idle connections: the app counts requests.
    how = {"log_level": "warning", "timeout_graceful_shutdown": GRACE_SECONDS}
    return uvicorn.Server(uvicorn.Config(app, **how))
