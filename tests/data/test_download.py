"""Downloads from a server in this process that does what the test asks of it."""

import errno
import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _helpers.cli import Zygote
from _helpers.server import command, packed
from _helpers.trees import build_tree

from padim_lit.data import MVTec, download
from padim_lit.data.datasets.mvtec import ARCHIVES, LICENCE, SHA256, provide
from padim_lit.data.download import fetch, unpack
from padim_lit.errors import InputError

# requests leaves the socket of an answer that is an error to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)


SMALL = {"image_size": 32, "crop_size": 24, "num_workers": 0}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    return packed(build_tree(tmp_path_factory.mktemp("tree")))


def one_line(call: Callable, *words: str) -> str:
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# the transfer ----------------------------------------------------------------------------------


def test_a_file_arrives_whole_with_its_checksum(server, tmp_path):
    server.content = bytes(range(256)) * 9000
    found = fetch(server.url(), tmp_path / "d", hashlib.sha256(server.content).hexdigest().upper())
    assert found.read_bytes() == server.content and names(tmp_path / "d") == [found.name]
    assert found.name.endswith("-tiny.tar.xz")


def test_a_file_that_is_there_is_taken_as_it_is(server, tmp_path):
    server.content = b"one"
    first = fetch(server.url(), tmp_path, hashlib.sha256(b"one").hexdigest())
    assert fetch(server.url(), tmp_path) == first and len(server.seen) == 1
    server.content = b"two"
    again = fetch(server.url(), tmp_path, hashlib.sha256(b"two").hexdigest())
    assert again == first and first.read_bytes() == b"two" and len(server.seen) == 2
    other = fetch(server.url("x/tiny.tar.xz"), tmp_path)
    assert other != first and len(server.seen) == 3


@pytest.mark.parametrize("stalls", [False, True])
def test_a_transfer_that_broke_leaves_nothing_and_works_the_next_time(server, tmp_path, stalls):
    server.content = bytes(range(256)) * 9000
    server.cut, server.stalls = 1_500_000, stalls
    words = ("not loaded", "timed out" if stalls else "1500000 bytes read", "again")
    one_line(lambda: fetch(server.url(), tmp_path / "d"), server.url(), *words)
    assert names(tmp_path / "d") == []
    server.cut, server.stalls = None, False
    assert fetch(server.url(), tmp_path / "d").read_bytes() == server.content


def test_what_a_killed_process_left_has_no_final_name(zygote, server, tmp_path):
    server.content = bytes(range(256)) * 20_000
    server.cut, server.stalls = 3_000_000, True
    script, folder = tmp_path / "fetch.py", tmp_path / "d"
    code = "import sys; from pathlib import Path; from padim_lit.data.download import fetch; "
    script.write_text(code + "fetch(sys.argv[1], Path(sys.argv[2]))")
    folder.mkdir()
    with zygote.start([server.url(), str(folder)], tmp_path, script=script):
        end = time.monotonic() + 120
        while not any(p.stat().st_size for p in folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
    (left,) = folder.iterdir()  # by what was killed
    assert not left.name.endswith("tiny.tar.xz")
    server.cut, server.stalls = None, False
    found = fetch(server.url(), folder)
    assert found.read_bytes() == server.content


def test_wrong_bytes_are_removed_and_their_checksum_said(server, tmp_path):
    server.content = b"wrong"
    found = hashlib.sha256(b"wrong").hexdigest()
    one_line(lambda: fetch(server.url(), tmp_path, "0" * 64), found, "0" * 64, "data.sha256")
    assert names(tmp_path) == []


def test_a_length_that_promises_too_much_is_a_broken_transfer(server, tmp_path):
    server.content, server.length = b"a" * 1000, 5000
    one_line(lambda: fetch(server.url(), tmp_path), "not loaded", "1000 bytes read")
    assert names(tmp_path) == []


def test_redirects_are_followed(server, tmp_path):
    server.content, server.redirect = b"here", "/moved"
    assert fetch(server.url(), tmp_path).read_bytes() == b"here" and len(server.seen) == 2


def test_a_redirect_to_another_scheme_is_refused(server, tmp_path):
    server.redirect = "file:///etc/passwd"
    one_line(lambda: fetch(server.url(), tmp_path), server.url())
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 404}, ("404", "data.url")),
        ({"status": 503}, ("503",)),
        ({"silent": True}, ("was not loaded", "timed out", "again")),
    ],
)
def test_answers_that_are_no_archive(server, tmp_path, change, words):
    server.content = b"<html>"
    for name, value in change.items():
        setattr(server, name, value)
    one_line(lambda: fetch(server.url(), tmp_path), server.url(), *words)
    assert names(tmp_path) == []


def test_nobody_there(tmp_path):
    url = "http://127.0.0.1:9/a"  # the discard port: nothing answers
    one_line(lambda: fetch(url, tmp_path), url, "refused", "check the network")


def test_a_disk_that_fills_up_is_said(server, tmp_path, monkeypatch):
    server.content = b"a" * 1000

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.move", full)
    one_line(lambda: provide(tmp_path, "tiny", server.url()), "No space left", "choose a writable")
    assert names(tmp_path / ".download") == []


def test_a_disk_without_room_for_the_images_costs_no_second_transfer(
    server, archive, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    server.content = archive
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", full)
        one_line(lambda: provide(tmp_path, "tiny", server.url()), "No space left", "room")
    assert names(tmp_path) == [".download", ".download.lock"]
    provide(tmp_path, "tiny", server.url())
    assert len(server.seen) == 1 and (tmp_path / "tiny").is_dir()


# unpacking -------------------------------------------------------------------------------------


def evil(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        for path, content in (("tiny/train/good/0.png", b"x"), (name, bytes(size))):
            member = tarfile.TarInfo(path)
            if path == name:
                member.type, member.linkname = kind, target
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


EVIL = {
    "parent": (evil("tiny/../../x"), "outside the destination"),
    "link out": (evil("tiny/x", tarfile.SYMTYPE, "../.."), "a link or a device .'tiny/x'"),
    "hard link": (evil("tiny/x", tarfile.LNKTYPE, "tiny/train/good/0.png"), "a link or a device"),
    "device": (evil("tiny/x", tarfile.CHRTYPE), "a link or a device"),
    "pipe": (evil("tiny/x", tarfile.FIFOTYPE), "a link or a device"),
    "file as folder": (evil("tiny/train/good/0.png/x"), "cannot be unpacked"),
    "folder as file": (evil("tiny/train"), "cannot be unpacked"),
    "long part": (evil("x" * 300), "cannot be unpacked"),
}


@pytest.mark.parametrize("case", EVIL)
def test_evil_archives_are_refused_before_their_evil(tmp_path, case):
    content, word = EVIL[case]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=word):
        unpack(tmp_path / "a", tmp_path / "out")
    assert names(tmp_path) == ["a", "out"]
    assert [p.name for p in (tmp_path / "out").rglob("*") if not p.is_dir()] == ["0.png"]


def test_what_an_absolute_path_names_lies_in_the_folder(tmp_path):
    (tmp_path / "a").write_bytes(evil(f"{tmp_path}/x"))
    unpack(tmp_path / "a", tmp_path / "out")
    assert names(tmp_path) == ["a", "out"]
    assert (tmp_path / "out" / tmp_path.relative_to("/") / "x").is_file()


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "w"])
def test_archives_cut_off_or_damaged_are_noticed(tmp_path, mode):
    content = packed(build_tree(tmp_path / "tree"), mode=mode)
    (tmp_path / "a").write_bytes(content)
    unpack(tmp_path / "a", tmp_path / "out")
    assert len(list((tmp_path / "out/tiny").rglob("*.png"))) == 4 + 5 + 3
    for part in (content[: len(content) // 2], b"", b"no archive", content[:100]):
        (tmp_path / "a").write_bytes(part)
        one_line(lambda: unpack(tmp_path / "a", tmp_path / "new"), "cannot be unpacked")
        shutil.rmtree(tmp_path / "new", ignore_errors=True)


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2"])
def test_damage_anywhere_in_a_compressed_archive_is_noticed(tmp_path, mode):
    content = packed(build_tree(tmp_path / "tree"), mode=mode)
    skip = 10 if mode == "w:gz" else 0  # the time and name in gzip's header have no checksum
    for start in range(skip, len(content) - 20, len(content) // 50):
        damaged = content[:start] + bytes(b ^ 255 for b in content[start : start + 20])
        (tmp_path / "a").write_bytes(damaged + content[start + 20 :])
        with pytest.raises(InputError):
            unpack(tmp_path / "a", tmp_path / "out")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


# MVTec AD --------------------------------------------------------------------------------------


def test_a_missing_category_is_fetched(server, archive, tmp_path, capsys):
    server.content = archive
    options = {"download": True, "url": server.url(), **SMALL}
    data = MVTec(tmp_path / "new" / "root", "tiny", **options)
    assert data.provenance["train_images"] == 4 and data.provenance["test_defective"] == 3
    assert LICENCE in capsys.readouterr().out
    root = tmp_path / "new" / "root"
    assert names(root) == [".download.lock", "tiny"]


def test_a_category_that_is_there_asks_nobody(server, tmp_path):
    build_tree(tmp_path / "tiny")
    MVTec(tmp_path, "tiny", download=True, url=server.url(), **SMALL)
    assert server.seen == [] and names(tmp_path) == ["tiny"]


@pytest.mark.parametrize("inside", ["", "mvtec_anomaly_detection/"])
def test_an_archive_of_several_categories_brings_all_that_are_missing(server, tmp_path, inside):
    build_tree(tmp_path / "all" / inside / "nut")
    build_tree(tmp_path / "all" / inside / "bolt")
    (tmp_path / "all" / inside / "license.txt").write_text("CC")
    server.content = packed(tmp_path / "all", ".")
    build_tree(tmp_path / "root" / "bolt", train=7)
    provide(tmp_path / "root", "nut", server.url())
    assert names(tmp_path / "root") == [".download.lock", "bolt", "nut"]
    assert len(names(tmp_path / "root/bolt/train/good")) == 7


def test_an_archive_without_the_category_says_what_it_holds(server, archive, tmp_path):
    server.content = archive
    one_line(lambda: provide(tmp_path, "screw", server.url()), "category 'screw'", ": tiny")
    assert names(tmp_path) == [".download", ".download.lock"]


def test_what_cannot_work_is_said_before_anything_is_loaded(server, tmp_path, monkeypatch):
    (tmp_path / "tiny/test").mkdir(parents=True)
    one_line(lambda: provide(tmp_path, "tiny", server.url()), "tiny has no train", "move it away")
    monkeypatch.delattr(tarfile, "data_filter")
    one_line(lambda: provide(tmp_path, "nut", server.url()), "update it to 3.10.12")
    assert server.seen == [] and names(tmp_path) == [".download.lock", "tiny"]


def test_an_evil_archive_from_the_net_leaves_nothing(server, tmp_path):
    server.content = EVIL["parent"][0]
    one_line(lambda: provide(tmp_path / "root", "tiny", server.url()), "outside the destination")
    assert names(tmp_path) == ["root"] and names(tmp_path / "root") == [
        ".download",
        ".download.lock",
    ]


def test_corrupt_bytes_without_a_checksum_are_noticed_when_unpacked(server, archive, tmp_path):
    middle = len(archive) // 2
    server.content = archive[:middle] + bytes(40) + archive[middle + 40 :]
    one_line(lambda: provide(tmp_path, "tiny", server.url()), "tiny.tar.xz", "cannot be unpacked")
    assert names(tmp_path / ".download") == []
    server.content = archive
    provide(tmp_path, "tiny", server.url())
    assert (tmp_path / "tiny" / "train").is_dir()


def test_a_run_killed_while_unpacking_goes_on_with_the_archive(
    server, archive, tmp_path, monkeypatch
):
    server.content = archive

    def killed(archive, folder):
        folder.mkdir()
        (folder / "tiny").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("padim_lit.data.datasets.mvtec.unpack", killed)
        patch.setattr("shutil.rmtree", lambda *args, **options: None)
        with pytest.raises(KeyboardInterrupt):
            provide(tmp_path, "tiny", server.url())
    assert ".tiny.unpacking" in names(tmp_path) and "tiny" not in names(tmp_path)
    provide(tmp_path, "tiny", server.url())
    assert len(server.seen) == 1 and names(tmp_path) == [".download.lock", "tiny"]


def test_two_at_once_fetch_it_once(server, archive, tmp_path):
    server.content = archive
    both = [threading.Thread(target=provide, args=(tmp_path, "tiny", server.url())) for _ in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(server.seen) == 1 and (tmp_path / "tiny" / "train").is_dir()


def test_the_publishers_table_is_complete():
    assert len(ARCHIVES) == len(set(ARCHIVES.values())) == 15 and SHA256.keys() <= ARCHIVES.keys()
    assert len(set(SHA256.values())) == len(SHA256)
    assert all(len(bytes.fromhex(digits)) == 32 for digits in SHA256.values())


# the command line ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_downloads(zygote: Zygote, server, archive, tmp_path):
    server.content, server.cut = archive, len(archive) // 2
    result = zygote.run(command(server), tmp_path)
    assert result.code == 1 and result.err.startswith("error: http://127.0.0.1"), result.err
    assert "was not loaded" in result.err and len(result.err.strip().splitlines()) == 1
    assert names(tmp_path / "data") == [".download", ".download.lock"]
    server.cut = None
    sha256 = hashlib.sha256(archive).hexdigest()
    result = zygote.run(command(server, f"data.sha256={sha256}"), tmp_path)
    assert result.code == 0, result.err
    assert LICENCE in result.out and names(tmp_path / "data") == [".download.lock", "tiny"]
    assert json.loads((tmp_path / "run/metrics.json").read_text())["data"] == "mvtec/tiny"
