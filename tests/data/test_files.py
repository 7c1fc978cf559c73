"""One listing of images: complete, each file once, and nothing left out without a word."""

import ntpath
import os
from pathlib import Path

import pytest
from _helpers.trees import save_image
from PIL import Image

from padim_lit.data.files import find_images, list_images, walk
from padim_lit.errors import InputError
from padim_lit.system.atomic import run_folder
from padim_lit.system.paths import typed_path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path / "in"


def names(given: str) -> list[str]:
    return [str(path) for path in find_images(given)]


def test_folders_behind_links_are_followed_and_a_pattern_gives_the_same(here, tmp_path):
    save_image(here / "a.png")
    for n in range(3):
        save_image(tmp_path / "store" / f"{n}.png", seed=n)
    (here / "day1").symlink_to(tmp_path / "store")
    assert names(".") == ["a.png", "day1/0.png", "day1/1.png", "day1/2.png"]
    assert names("**/*.png") == names(".")
    assert names("day?/*.png") == names(".")[1:]
    assert len(names(str(here / "**" / "*.png"))) == 4


def test_links_that_lead_back_loop_nowhere(here, tmp_path, caplog):
    caplog.set_level("INFO")
    save_image(here / "sub" / "a.png")
    save_image(tmp_path / "not_meant.png")
    (here / "l").symlink_to("sub/..")
    for n, target in enumerate((".", "..", here, tmp_path)):
        (here / f"l{n}").symlink_to(target)
        (here / "sub" / f"l{n}").symlink_to(target)
    assert names(".") == names("**/*.png") == ["sub/a.png"]
    assert "lead back, not followed" in caplog.text


def test_two_folders_that_lead_to_each_other_end_too(here):
    for one, other in ("ab", "ba"):
        save_image(here / one / f"{one}.png", seed=ord(one))
        for n in range(9):
            (here / one / f"to{n}").symlink_to(here / other)
    assert names(".") == names("**/*.png") == ["a/a.png", "b/b.png"]
    assert names("a/**/b.png") == ["a/to0/b.png"]


def test_a_pattern_finds_what_it_names_behind_a_link_to_a_brother(here):
    save_image(here / "store" / "a.png")
    (here / "day").symlink_to("store")
    assert names(".") == ["store/a.png"]
    assert names("**/day/*.png") == ["day/a.png"]


def test_a_file_and_its_links_are_one_image(here, caplog):
    caplog.set_level("INFO")
    save_image(here / "b.png")
    (here / "a.png").symlink_to("b.png")
    (here / "c.png").symlink_to("b.png")
    assert len(list_images(here)) == 3  # of a store, which keeps one file for all that are alike
    assert len(names(".")) == len(names("*.png")) == 1
    assert "2 links to files that are listed already" in caplog.text
    assert names("c.png") == ["c.png"]  # named itself


def test_a_file_goes_by_its_own_name_though_a_link_lies_deeper(here):
    save_image(here / "z.png")
    (here / "sub").mkdir()
    (here / "sub" / "a.png").symlink_to("../z.png")
    assert names(".") == names("**/*.png") == ["z.png"]


def test_a_link_to_itself_leads_nowhere(here):
    save_image(here / "a.png")
    (here / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"1 link\(s\) in \. lead nowhere, such as loop"):
        find_images(".")
    assert names("*.png") == ["a.png"]


def test_images_of_formats_that_are_not_read_are_named(here):
    save_image(here / "a.png")
    Image.new("L", (4, 4)).save(here / "b.jp2")
    Image.new("L", (4, 4)).save(here / "c.gif")
    for given in (".", "*", "**"):
        with pytest.raises(InputError, match=r"2 image\(s\) in .* such as b\.jp2; allowed"):
            find_images(given)
    assert names("*.png") == ["a.png"]


def test_other_files_are_counted_by_suffix(here, caplog):
    caplog.set_level("INFO")
    save_image(here / "a.png")
    for name in ("b.txt", "sub/c.TXT", "README", ".hidden", ".git/d.png", "sub/.e.png"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert names(".") == ["a.png"]
    assert "1 images; other files, left out: 2 .txt, 1 without suffix" in caplog.text
    assert "**: 2 hidden images and folders, left out" in caplog.text
    save_image(here / ".f.png")
    with run_folder(here, ["heatmaps"]):
        save_image(here / "heatmaps" / "g.png")  # a run's own is no image below
    assert [path.name for path in list_images(here)] == ["a.png"]
    assert f"{here}/**: 4 hidden images and folders, left out" in caplog.text


def test_links_to_images_that_are_gone_are_listed_and_to_folders_refused(here):
    (here / "a.png").symlink_to("/nonexistent/a.png")
    assert names(".") == ["a.png"]
    (here / "day1").symlink_to("/nonexistent")
    with pytest.raises(InputError, match=r"1 link\(s\) in \. lead nowhere, such as day1"):
        find_images(".")


@pytest.mark.parametrize("name", ["run[7]", "a*b", "ü ä", "名", "#=&~", "{a,b}", "**x"])
def test_what_exists_by_its_very_name_is_no_pattern(here, name):
    save_image(here / name / "a.png")
    for given in (name, f"{name}/a.png", f"{name}/*.png", f"{name}/**", f"./{name}/?.png"):
        assert names(given) == [f"{name}/a.png"]
    save_image(here / f"{name}.png")
    assert names(f"{name}.png") == names(f"**/{name}.png") == [f"{name}.png"]


def test_on_windows_a_pattern_is_of_any_case(here, monkeypatch):
    save_image(here / "A.PNG")
    assert list(walk(here / "*.png")) == []
    monkeypatch.setattr(os.path, "normcase", ntpath.normcase)
    assert [path.name for path in walk(here / "*.png")] == ["A.PNG"]


def test_a_home_is_expanded_where_it_was_typed_and_nowhere_else(here, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save_image(tmp_path / "home" / "a.png")
    save_image(here / "~" / "a.png", seed=1)
    save_image(here / "~nobody.png", seed=2)
    assert names("~/a.png") == [str(tmp_path / "home" / "a.png")]
    assert names(".") == ["~/a.png", "~nobody.png"]
    assert names("~nobody.png") == ["~nobody.png"]
    assert typed_path("x/~") == Path("x/~")


def test_a_tree_of_any_depth_is_walked_in_one_go(here, monkeypatch):
    folder = here
    for _ in range(200):
        folder = folder / "d"
    save_image(folder / "a.png")
    asked, real = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(path) or real(path))
    assert len(names(".")) == len(names("**/*.png")) == 1
    assert len(asked) < 10, "each takes a look at every folder above"


def test_a_path_that_is_none_is_told_from_a_folder_without_images(here):
    save_image(here / "in" / "a.png")
    for given in ("nowhere", "in "):
        with pytest.raises(InputError, match=f"images='{given}': no such file or folder"):
            find_images(given)


@pytest.mark.parametrize("given", ["nowhere/*.png", "*.png", ".", "**/*.png"])
def test_no_image_is_one_line(given):
    with pytest.raises(InputError, match="no image there; give a file, a folder or a quoted") as e:
        find_images(given)
    assert "\n" not in str(e.value)


def test_folders_that_go_meanwhile_end_no_watch(here, monkeypatch):
    save_image(here / "a.png")
    save_image(here / "sub" / "b.png")
    scan = os.scandir

    def gone(folder):
        if Path(folder).name == "sub":
            raise FileNotFoundError(2, "gone", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", gone)
    assert list(walk(Path("**"), strict=False)) == [Path("a.png")]
    with pytest.raises(InputError, match="sub cannot be read"):
        find_images(".")
