"""A model over HTTP: the predictor's numbers, limits, reasons in a line, no path from outside."""

import io
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from _helpers.cli import TIMEOUT, TINY
from _helpers.fits import fitted_detector
from _helpers.trees import build_tree
from PIL import Image

from padim_lit import Predictor
from padim_lit.deploy.server import make_app

testclient = pytest.importorskip("fastapi.testclient")
LIMIT = 100_000


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(fitted_detector(), image_size=[64, 64], threshold=3.0, device="cpu")


@pytest.fixture(scope="module")
def client(predictor):
    with testclient.TestClient(make_app(predictor, "# a card ×", LIMIT)) as client:
        yield client


def picture(kind: str = "PNG", seed: int = 0, size: tuple[int, int] = (60, 90)) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_an_image_gets_the_predictors_numbers(client, predictor, tmp_path, kind):
    (tmp_path / "a").write_bytes(content := picture(kind))
    found, there = predictor(tmp_path / "a"), client.post("/predict", content=content)
    assert there.status_code == 200
    said = there.json()
    assert said["score"] == found.score and said["decision"] == "anomalous"
    assert (said["width"], said["height"], said["threshold"]) == (90, 60, 3.0)
    assert said["regions"] == json.loads(json.dumps([r.numbers() for r in found.regions])) != []


def test_requests_at_once_do_not_mix(client):
    contents = [picture(seed=n) for n in range(8)]
    alone = [client.post("/predict", content=content).json() for content in contents]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda c: client.post("/predict", content=c).json(), contents))
    assert together == alone and len({found["score"] for found in alone}) == 8


def test_what_is_no_image_is_one_line(client):
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    whole = picture()
    gif = io.BytesIO()
    Image.new("L", (8, 8)).save(gif, "GIF")
    for content, said in (
        (b"", "cannot read"), (b"/etc/passwd", "cannot read"), (whole[:500], "cannot read"),
        (gif.getvalue(), "cannot read"), (bomb.getvalue()[:LIMIT], "900000000 pixels"),
    ):  # fmt: skip
        answer = client.post("/predict", content=content)
        assert answer.status_code == 422, content[:20]
        assert said in answer.json()["detail"] and "\n" not in answer.json()["detail"]


def test_a_larger_body_is_refused_before_its_end(client):
    read = []

    def endless():
        for n in range(1000):
            read.append(n)
            yield bytes(10_000)

    answer = client.post("/predict", content=endless())
    assert answer.status_code == 413 and str(LIMIT) in answer.json()["detail"]
    assert client.post("/predict", content=bytes(LIMIT + 1)).status_code == 413


def test_health_card_and_nothing_else(client):
    assert client.get("/health").json()["threshold"] == 3.0
    card = client.get("/card")
    assert card.text == "# a card ×" and card.headers["content-type"].startswith("text/markdown")
    for path in ("/", "/docs", "/redoc", "/model.ckpt", "/../etc/passwd", "/card/../model.ckpt"):
        assert client.get(path).status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.get("/predict?images=/etc/passwd").status_code == 405


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=3, test={"good": 1, "crack": 1})
    assert zygote.run(TINY, folder).code == 0
    return folder


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["port=0"], "port=0"), (["max_mb=0"], "max_mb=0"), (["ckpt=null"], "ckpt="),
        (["ckpt=none.ckpt"], "none.ckpt"), (["host=256.1.1.1"], "cannot be listened at"),
    ],
)  # fmt: skip
def test_wrong_keys_are_one_line(zygote, here, wrong, said):
    args = ["mode=serve", "ckpt=run/model.ckpt", "trainer=cpu", "hydra.run.dir=served"]
    result = zygote.run([*args, *wrong], here)
    assert result.code == 1 and said in result.err and len(result.err.strip().splitlines()) == 1


def test_a_card_with_the_name_of_a_folder_that_is_no_utf8_is_read(zygote, here):
    (here / "named").mkdir()
    (here / "named/model.ckpt").write_bytes((here / "run/model.ckpt").read_bytes())
    (here / "named/model_card.md").write_bytes(b"Kinds: cr\xe4ck (2)")
    args = ["mode=serve", "ckpt=named/model.ckpt", "trainer=cpu", "host=256.1.1.1"]
    result = zygote.run(args, here)  # the address is looked at after the card
    assert result.code == 1 and "cannot be listened at" in result.err
    assert len(result.err.strip().splitlines()) == 1


@contextmanager
def serving(zygote, here, ckpt: str = "run/model.ckpt") -> Iterator[int]:
    """The port at which mode=serve listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    args = ["mode=serve", f"ckpt={ckpt}", "trainer=cpu", f"port={port}", "hydra.run.dir=served"]
    with zygote.start(args, here) as process:
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, process.wait()
                assert time.monotonic() < end
                time.sleep(0.02)
        yield port


def test_a_card_is_that_of_its_model_alone(zygote, here):
    card = (here / "run/model_card.md").read_text()
    (here / "run/other.ckpt").write_bytes((here / "run/model.ckpt").read_bytes())
    for name, own in (("model", True), ("other", False)):
        with serving(zygote, here, f"run/{name}.ckpt") as port:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/card", timeout=TIMEOUT)
            text = answer.read().decode()
        assert (text == card) == own and text.startswith("# padim_lit model")
