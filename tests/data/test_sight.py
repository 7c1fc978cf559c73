"""What is told of photos that a model sees in part, squeezed, or only the first page of."""

import pytest
from PIL import Image

from padim_lit.data.sight import Sight
from padim_lit.data.transform import ResizeCrop

WHOLE, CENTRE = ResizeCrop(224, None), ResizeCrop(256, 224)


def notes_on(resize_crop: ResizeCrop, *sizes: tuple[int, int]) -> list[str]:
    sight = Sight(resize_crop)
    for n, size in enumerate(sizes):
        sight.add(f"{n}.png", size)
    return sight.notes()


def test_the_least_that_is_seen_and_the_most_that_is_squeezed_are_told():
    assert notes_on(WHOLE, (300, 300), (300, 599)) == notes_on(CENTRE) == []
    (crop,) = notes_on(CENTRE, (256, 256), (300, 2000), (1024, 1280))
    assert crop.startswith("The model sees as little as 11% of an image (1.png, 2000×300 pixels)")
    assert "image_size=256 and crop_size=224; a fit with crop_size=null sees all." in crop
    (squeezed,) = notes_on(WHOLE, (300, 300), (300, 2000), (900, 300))
    assert squeezed.startswith("Photos are squeezed up to 6.67:1 (1.png, 2000×300 pixels); cut")
    assert "fit with image_size=[96,640], which nearly keeps these" in squeezed
    # A model of long photos gets long ones as they are, and squeezes squares.
    assert notes_on(ResizeCrop([96, 640], None), (300, 2000)) == []
    (squeezed,) = notes_on(ResizeCrop([96, 640], None), (300, 2000), (300, 300))
    assert "6.67:1 (1.png, 300×300 pixels)" in squeezed and "image_size=[256,256]" in squeezed


def test_each_reason_is_news_once():
    sight = Sight(ResizeCrop([256, 256], [224, 224]))
    sight.add("a.png", (300, 300))
    assert len(sight.news()) == 1 and sight.news() == []
    sight.add("b.png", (300, 2000), True)
    squeezed, pages = sight.news()
    assert "squeezed" in squeezed and pages.startswith("b.png has several pages or frames; the fir")
    sight.add("c.png", (300, 4000), True)
    assert sight.news() == [] and "13.3:1 (c.png" in sight.notes()[1]
    assert sight.notes()[2].startswith("b.png and 1 other have several pages")


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_further_pages_in_files_are_told(tmp_path, suffix):
    first, second = Image.new("L", (9, 9), 40), Image.new("L", (9, 9), 200)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True)
    first.save(tmp_path / f"b.{suffix}")
    sight = Sight(WHOLE)
    sight.look([tmp_path / f"b.{suffix}"])
    assert sight.notes() == []
    sight.look([tmp_path / f"a.{suffix}"])
    assert sight.notes() == [
        f"{tmp_path}/a.{suffix} has several pages or frames; the first is read."
    ]
