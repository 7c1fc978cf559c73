"""A model over HTTP: the predictor's numbers, limits, reasons in a line, no path from outside."""

import asyncio
import http.client
import io
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from _helpers.cli import TIMEOUT, TINY
from _helpers.fits import fitted_detector
from _helpers.tables import long_table
from _helpers.trees import build_tree
from PIL import Image

from padim_lit import Predictor
from padim_lit.checkpoint.format import sha256_of
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.cli.modes import serve
from padim_lit.deploy import server
from padim_lit.deploy.model_card import is_card_of
from padim_lit.deploy.server import AT_ONCE, make_app

testclient = pytest.importorskip("fastapi.testclient")
LIMIT = 100_000


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    predictor = Predictor(fitted_detector(), image_size=[64, 64], threshold=3.0, device="cpu")
    predictor.model_sha256 = "0123456789ab"
    return predictor


@pytest.fixture(scope="module")
def client(predictor):
    with testclient.TestClient(make_app(predictor, "# a card ×", LIMIT)) as client:
        yield client


def picture(
    kind: str = "PNG", seed: int = 0, size: tuple[int, int] = (60, 90), orientation: int = 1
) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "orientation"),
    [("PNG", 1), ("JPEG", 1), ("TIFF", 1), ("BMP", 1), ("PNG", 2), ("JPEG", 3), ("TIFF", 4)],
)
def test_an_image_gets_the_predictors_numbers(client, predictor, tmp_path, kind, orientation):
    (tmp_path / "a").write_bytes(content := picture(kind, orientation=orientation))
    found, there = predictor(tmp_path / "a"), client.post("/predict", content=content)
    assert there.status_code == 200
    said = there.json()
    assert said["score"] == found.score and said["decision"] == "anomalous"
    assert (said["width"], said["height"], said["threshold"]) == (90, 60, 3.0)
    which = {"model_sha256": predictor.model_sha256}
    assert said == json.loads(json.dumps(found.numbers() | which)) and said["regions"]


def test_what_is_not_seen_of_images_is_logged_once(predictor, caplog):
    with testclient.TestClient(make_app(predictor, "", LIMIT)) as client:
        for size in ((60, 90), (40, 200), (40, 300)):
            assert client.post("/predict", content=picture(size=size)).json()["seen"][2] == size[1]
    (said,) = [m for m in caplog.messages if "squeezed" in m]
    assert said.startswith("Photos are squeezed up to 5:1 (a request, 200×40 pixels)")


def test_requests_at_once_do_not_mix(client):
    contents = [picture(seed=n) for n in range(8)]
    alone = [client.post("/predict", content=content).json() for content in contents]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda c: client.post("/predict", content=c).json(), contents))
    assert together == alone and len({found["score"] for found in alone}) == 8


@pytest.mark.slow
def test_what_is_no_image_is_one_line(client, caplog):
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    whole = picture()
    gif = io.BytesIO()
    Image.new("L", (8, 8)).save(gif, "GIF")
    for content, said in (
        (b"", "send the image's bytes, as curl --data-binary does"),
        (b"/etc/passwd", "PNG, JPEG, TIFF, BMP or WebP"),
        (whole[:500], "cannot read"), (gif.getvalue(), "cannot read"),
        (bomb.getvalue()[:LIMIT], "at most 89 million pixels"),
    ):  # fmt: skip
        answer = client.post("/predict", content=content)
        assert answer.status_code == 422, content[:20]
        assert said in answer.json()["detail"] and "\n" not in answer.json()["detail"]
        assert "remove it" not in answer.json()["detail"]  # a body lies nowhere
        assert caplog.messages[-1] == f"answered 422: {answer.json()['detail']}"
    curl_d = {"content": whole.replace(b"\n", b"").replace(b"\r", b"")}
    for form in ({"files": {"file": whole}}, curl_d):
        answer = client.post("/predict", **form)
        assert answer.status_code == 422 and "curl --data-binary" in answer.json()["detail"]


def test_a_larger_body_is_refused_before_its_end(client, caplog):
    read = []

    def endless():
        for n in range(1000):
            read.append(n)
            yield bytes(10_000)

    answer = client.post("/predict", content=endless())
    assert answer.status_code == 413 and str(LIMIT) in answer.json()["detail"]
    assert client.post("/predict", content=bytes(LIMIT + 1)).status_code == 413
    said = f"answered 413: the image is larger than {LIMIT} bytes"
    assert caplog.messages.count(said) == 2


def test_health_card_and_nothing_else(client):
    said = client.get("/health").json()
    assert (said["threshold"], said["model_sha256"]) == (3.0, "0123456789ab")
    assert said["in_work"] == 0
    card = client.get("/card")
    assert card.text == "# a card ×" and card.headers["content-type"].startswith("text/markdown")
    for path in ("/", "/docs", "/redoc", "/model.ckpt", "/../etc/passwd", "/card/../model.ckpt"):
        assert client.get(path).status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.get("/predict?images=/etc/passwd").status_code == 405


def test_what_the_machine_cannot_do_is_not_the_images_fault(monkeypatch):
    model = Predictor(fitted_detector(), image_size=[64, 64], threshold=3.0, device="cpu")

    def fails(*_):
        raise torch.OutOfMemoryError("full")

    whole, app = picture(), make_app(model, "", LIMIT)
    with testclient.TestClient(app, raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(model.detector, "forward", fails)
            assert client.post("/predict", content=whole).status_code == 500
            assert client.post("/predict", content=b"none").status_code == 422
        assert client.post("/predict", content=whole).status_code == 200


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=3, test={"good": 1, "crack": 1})
    assert zygote.run(TINY, folder).code == 0
    return folder


@long_table(
    ("wrong", "said"),
    [
        (["port=0"], "port=0"), (["max_mb=0"], "max_mb=0"), (["ckpt=null"], "ckpt="),
        (["ckpt=none.ckpt"], "none.ckpt"), (["host=256.1.1.1"], "cannot be listened at"),
    ], every=3,
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
def serving(zygote, here, ckpt: str = "run/model.ckpt", *given: str) -> Iterator[int]:
    """The port at which mode=serve listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    args = ["mode=serve", f"ckpt={ckpt}", "trainer=cpu", f"port={port}", "hydra.run.dir=served"]
    with zygote.start([*args, *given], here) as process:
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
        os.killpg(process.pid, signal.SIGINT)
        assert "Traceback" not in process.wait().err


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple:
    """Status, headers and content of the answer over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


@pytest.mark.slow
def test_a_card_is_that_of_its_model_alone(zygote, here):
    card = (here / "run/model_card.md").read_text()
    (here / "run/copy.ckpt").write_bytes((here / "run/model.ckpt").read_bytes())
    save_detector(load_detector(here / "run/model.ckpt"), here / "run/other.ckpt")
    for name, own in (("model", True), ("copy", True), ("other", False)):
        with serving(zygote, here, f"run/{name}.ckpt") as port:
            text = ask(port, "GET", "/card")[2].decode()
        assert (text == card) == own and text.startswith("# padim_lit model")
        assert is_card_of(text, sha256_of(here / f"run/{name}.ckpt"))


@pytest.mark.slow
def test_a_card_says_by_which_threshold_it_is_served(zygote, here):
    by_hand = ("threshold=7.0", "threshold 7.000, chosen by hand, which about")
    for given, source in (by_hand, ("false_alarm_rate=0.5", "")):
        with serving(zygote, here, "run/model.ckpt", given) as port:
            text = ask(port, "GET", "/card")[2].decode()
            threshold = json.loads(ask(port, "GET", "/health")[2])["threshold"]
        assert text.startswith(f"Served with {given}: {source or f'threshold {threshold:.4g}'}")
        assert text.endswith((here / "run/model_card.md").read_text())


@pytest.mark.slow
def test_requests_are_counted_and_connections_are_not(zygote, here):
    def post(content: bytes) -> tuple:
        return ask(port, "POST", "/predict", content)

    with serving(zygote, here) as port, ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(2 * AT_ONCE):  # that say nothing
            stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
        assert ask(port, "GET", "/health")[0] == 200
        answers = list(pool.map(post, [picture()] * AT_ONCE))
        assert {status for status, *_ in answers} == {200}
        with ExitStack() as slow:
            for _ in range(AT_ONCE):  # whose images are on their way
                one = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                slow.enter_context(one).sendall(
                    b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nB"
                )
            wait_until(lambda: post(b"no image")[0] == 503)
            status, headers, content = post(picture())
            assert status == 503 and headers["Retry-After"] == "1"
            assert f"{AT_ONCE} images are in work" in json.loads(content)["detail"]
            assert ask(port, "GET", "/health")[0] == ask(port, "GET", "/card")[0] == 200
            assert json.loads(ask(port, "GET", "/health")[2])["in_work"] == AT_ONCE
        wait_until(lambda: post(picture())[0] == 200)  # they hung up
        assert json.loads(ask(port, "GET", "/health")[2])["in_work"] == 0
    log = (here / "served/run.log").read_text()
    assert f"answered 503: {AT_ONCE} images are in work" in log and "answered 400" in log


def test_a_body_that_does_not_come_makes_room(predictor, monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.05)
    sent = []

    async def silence():
        await asyncio.sleep(TIMEOUT)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [],
        "query_string": b"",
    }
    app = make_app(predictor, "", LIMIT)
    for _ in range(AT_ONCE + 1):
        asyncio.run(app(scope, silence, send))
    assert {m["status"] for m in sent if "status" in m} == {408}
    assert "0.05 s" in json.loads(sent[-1]["body"])["detail"]


def test_half_an_image_does_not_keep_a_server_from_its_end(predictor, monkeypatch, caplog):
    monkeypatch.setattr(serve, "GRACE_SECONDS", 0.2)
    running = serve.make_server(make_app(predictor, "", LIMIT))
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    half = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nB"

    async def end(listener):
        serving = asyncio.create_task(running.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(half)
        while not running.server_state.tasks:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        running.should_exit = True
        await asyncio.wait_for(serving, TIMEOUT)
        said = await reader.readuntil(b"}")
        writer.close()
        return said

    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = asyncio.run(end(listener))
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert said.startswith(b"HTTP/1.1 503") and b"the server is ending" in said
    assert [record.exc_info for record in caplog.records] == [None, None]
    uvicorns, ours = caplog.messages
    assert "Cancel 1 running task(s)" in uvicorns and "answered 503: the server is" in ours


def wait_until(true) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
