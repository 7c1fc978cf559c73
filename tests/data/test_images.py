import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from padim_lit.data.files import list_images
from padim_lit.data.images import as_rgb, read_bytes, read_image, read_mask, read_size
from padim_lit.data.transform import ResizeCrop
from padim_lit.errors import InputError

RAMP = np.arange(12 * 10).reshape(10, 12)


def pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG", ".TIF"])
def test_8_bit_grey_is_repeated_on_three_channels(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RAMP.astype(np.uint8)).save(path)
    assert np.array_equal(pixels(path), np.repeat(RAMP[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_rgb_channels_keep_their_order(tmp_path, suffix):
    colours = np.stack([RAMP, RAMP + 50, RAMP + 100], axis=2).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / f"a{suffix}", lossless=True)
    assert np.array_equal(pixels(tmp_path / f"a{suffix}"), colours)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_a_lossy_picture_is_close_to_what_was_saved(tmp_path, name):
    smooth = np.linspace(20, 220, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / name, quality=98)
    assert np.abs(pixels(tmp_path / name)[:, :, 0].astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_by_the_full_range(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [32768, 1000, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    expected = np.rint(values / 65535 * 255)
    assert np.array_equal(pixels(tmp_path / f"a{suffix}")[:, :, 0], expected)


def test_big_endian_16_bit_tiff_has_the_same_values(tmp_path):
    values = (257 * RAMP).astype(np.uint16)
    big = Image.frombytes("I;16B", (12, 10), values.astype(">u2").tobytes())
    big.save(tmp_path / "a.tif")
    assert np.array_equal(pixels(tmp_path / "a.tif")[:, :, 1], RAMP)


def test_32_bit_tiff_is_read_within_16_bits_and_refused_beyond(tmp_path):
    Image.fromarray((257 * RAMP).astype(np.int32)).save(tmp_path / "a.tif")
    assert np.array_equal(pixels(tmp_path / "a.tif")[:, :, 0], RAMP)
    Image.fromarray((257 * RAMP * 10).astype(np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(InputError) as error:
        read_image(tmp_path / "b.tif")
    assert_one_line(error, "b.tif", 257 * 119 * 10)


def test_16_bit_rgb_png_keeps_its_colours(tmp_path):
    # Pillow cannot write this format, so the file is put together by hand.
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    colours = np.stack([RAMP, RAMP + 50, RAMP + 100], axis=2)
    rows = (257 * colours).astype(">u2").reshape(10, -1)
    header = struct.pack(">IIBBBBB", 12, 10, 16, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    png = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    assert np.array_equal(pixels(tmp_path / "a.png"), colours)


def test_16_bit_brightness_does_not_depend_on_the_maximum(tmp_path):
    for name, top in (("a", 30000), ("b", 60000)):
        Image.fromarray(np.array([[10000, top]], dtype=np.uint16)).save(tmp_path / f"{name}.png")
    assert pixels(tmp_path / "a.png")[0, 0, 0] == pixels(tmp_path / "b.png")[0, 0, 0] == 39


def test_float_tiff_is_refused(tmp_path):
    Image.fromarray((RAMP / 100).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError) as error:
        read_image(tmp_path / "a.tif")
    assert_one_line(error, "a.tif", "floating-point")


def test_transparency_is_composited_over_black(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    result = pixels(tmp_path / "a.png")[0].astype(int)
    assert result[0].tolist() == [200, 100, 50]
    assert result[1].tolist() == [0, 0, 0]
    assert np.abs(result[2] - np.array([100, 50, 25])).max() <= 1


def test_transparency_of_one_grey_level_in_16_bit_is_black_too(tmp_path):
    Image.fromarray(np.array([[65535, 32768]], np.uint16)).save(tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    at, chunk = png.index(b"IDAT") - 4, b"tRNS" + b"\xff\xff"  # Pillow 10 does not write it
    chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(png[:at] + chunk + png[at:])
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128]
    assert read_mask(tmp_path / "a.png").tolist() == [[False, True]]


def test_a_loader_that_is_killed_meanwhile_is_no_fault_of_the_image(tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", killed)
    with pytest.raises(RuntimeError, match="pid 7"):
        read_image(tmp_path / "a.png")


def test_tags_that_cannot_be_read_turn_nothing(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (9, 4), 7).save(tmp_path / name, exif=b"Exif\0\0no tags at all")
        assert read_image(tmp_path / name).size == (9, 4)


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "clear.png", transparency=bytes([255, 0, 255]))
    expected = [[10, 20, 30], [200, 100, 50], [0, 255, 0]]
    assert pixels(tmp_path / "plain.png")[0].tolist() == expected
    expected[1] = [0, 0, 0]
    assert pixels(tmp_path / "clear.png")[0].tolist() == expected


def test_cmyk_jpeg_and_tiff_become_rgb(tmp_path):
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    for name in ("a.jpg", "a.tif"):
        red.convert("CMYK").save(tmp_path / name)
        result = pixels(tmp_path / name)[8, 8].astype(int)
        assert result[0] > 230 and result[1:].max() < 30, name


def test_one_bit_image_becomes_black_and_white(tmp_path):
    Image.fromarray(RAMP % 2 == 1).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png")[:, :, 0], (RAMP % 2) * 255)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name):
    upright = np.zeros((8, 24), dtype=np.uint8)
    upright[:, :12] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned 90 degrees; shown turned back clockwise
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    stored.save(tmp_path / name, exif=exif)
    result = pixels(tmp_path / name)[:, :, 0]
    assert result.shape == (8, 24)
    assert result[4, 2] > 200 and result[4, 22] < 50


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_once_however_it_comes(tmp_path, name, orientation):
    exif, path = Image.Exif(), tmp_path / name
    exif[0x0112] = orientation
    Image.fromarray(RAMP.astype(np.uint8)).save(path, exif=exif)
    read, by_bytes = read_image(path), read_bytes(path.read_bytes(), "send it")
    with Image.open(path) as opened:
        in_memory = as_rgb(opened)
        assert opened.filename == str(path)
    for one in (by_bytes, as_rgb(read), as_rgb(by_bytes), in_memory, as_rgb(in_memory)):
        assert np.array_equal(np.asarray(one), np.asarray(read))


def broken_files(folder):
    Image.effect_noise((200, 200), 80).save(folder / "whole.png")
    Image.effect_noise((200, 200), 80).save(folder / "whole.jpg")
    Image.effect_noise((200, 200), 80).save(folder / "whole.bmp")
    Image.effect_noise((200, 200), 80).save(folder / "whole.tif")
    Image.effect_noise((200, 200), 80).save(folder / "whole.webp")
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        data = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"truncated.{suffix}").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image\nat all\n")
    Image.new("L", (4, 4)).save(folder / "other.gif")
    (folder / "other.gif").rename(folder / "gif.png")
    (folder / "directory.png").mkdir()


@pytest.mark.parametrize(
    "name",
    [
        "truncated.png",
        "truncated.jpg",
        "truncated.bmp",
        "truncated.tif",
        "truncated.webp",
        "empty.png",
        "text.png",
        "gif.png",
        "directory.png",
        "missing.png",
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_broken_file_is_one_line_that_names_it(tmp_path, name, read):
    broken_files(tmp_path)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert_one_line(error, tmp_path / name)
    assert "<_io" not in str(error.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_mask, read_size):
        with pytest.raises(InputError) as error:
            read(tmp_path / "pipe.png")
        assert_one_line(error, tmp_path / "pipe.png", "a folder, pipe or device")


def test_listing_ignores_hidden_and_other_files_and_the_case_of_extensions(tmp_path):
    for name in ("b.PNG", "a.jpeg", "c.TiF", "d.bmp", ".hidden.png", "._a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "c.TiF", "d.bmp"]


@pytest.mark.parametrize("suffix", [".jxl", ".gif", ".jp2", ".HEIC", ".avif", ".svg"])
def test_images_that_are_not_read_are_refused_and_never_dropped(tmp_path, suffix):
    for name in ("a.png", f"b{suffix}", f"c{suffix}", f".hidden{suffix}"):
        (tmp_path / name).touch()
    with pytest.raises(InputError) as error:
        list_images(tmp_path)
    assert_one_line(
        error, f"2 image(s) in {tmp_path}", f"b{suffix}", ".png, .jpg", "convert or remove"
    )
    (tmp_path / f"b{suffix}").unlink()
    (tmp_path / f"c{suffix}").rename(tmp_path / f".c{suffix}")
    assert [p.name for p in list_images(tmp_path)] == ["a.png"]


def test_listing_a_missing_folder_names_it(tmp_path):
    with pytest.raises(InputError) as error:
        list_images(tmp_path / "nowhere")
    assert_one_line(error, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 127, 128, 255]], [[0, 1, 1, 1]]),
        ([[0, 50, 255, 0]], [[0, 1, 1, 0]]),
        ([[0, 1, 3, 0]], [[0, 1, 1, 0]]),
        ([[0, 100, 200, 100]], [[0, 1, 1, 1]]),
        ([[0, 1, 1, 0]], [[0, 1, 1, 0]]),
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]]),
        ([[1, 1, 1, 1]], [[1, 1, 1, 1]]),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_every_class_above_background_is_a_defect(tmp_path, values, expected, mode):
    grey = Image.fromarray(np.array(values, dtype=np.uint8))
    grey.convert(mode).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == np.array(expected, dtype=bool).tolist()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_mask_with_soft_edges_is_cut_in_the_middle(tmp_path, bits):
    ramp = np.concatenate([np.zeros(99), np.arange(0, 256, 5), np.full(99, 255)]).astype(np.uint8)
    stored = ramp[None] if bits == 8 else ramp[None].astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png")[0].tolist() == (ramp > 127).tolist()
    assert read_mask(tmp_path / "m.png", threshold=127)[0].tolist() == (ramp > 127).tolist()
    assert read_mask(tmp_path / "m.png", threshold=0)[0].tolist() == (ramp > 0).tolist()


@pytest.mark.parametrize("quality", [75, 90, 95, 100])
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_jpegs_faint_border_is_no_defect(tmp_path, quality, kind):
    truth = Image.new("L", (256, 256))
    draw = ImageDraw.Draw(truth)
    for x in range(10, 250, 60):
        draw.ellipse((x, 20, x + 40, 60 + x // 4), fill=255)
        draw.line((x, 200, x + 30, 240), fill=255, width=2)
    truth.save(tmp_path / "m.jpg", kind, quality=quality)
    found, true = read_mask(tmp_path / "m.jpg"), np.asarray(truth) > 0
    assert (found != true).sum() < 0.1 * true.sum()
    # Two classes, of which the dark one is larger, are not made one.
    values = np.asarray(truth).copy()
    values[:100] = np.where(values[:100] > 0, 100, 0)
    Image.fromarray(values).save(tmp_path / "two.jpg", kind, quality=quality)
    try:
        assert read_mask(tmp_path / "two.jpg").sum() > 0.9 * true.sum()
    except InputError as error:
        assert "write it as 0 and 255" in str(error)
    # As a mask of classes it is no JPEG, but nobody would know of one that is dark.
    Image.fromarray(np.uint8(true)).save(tmp_path / "dark.jpg", kind, quality=100)
    assert read_mask(tmp_path / "dark.jpg").sum() > 0.5 * true.sum()


def test_classes_in_a_webp_without_loss_are_kept(tmp_path):
    values = np.repeat(np.array([[0, 100, 255, 255]], np.uint8), 4, axis=0)
    Image.fromarray(values).save(tmp_path / "m.webp", lossless=True)
    assert read_mask(tmp_path / "m.webp").tolist() == (values > 0).tolist()


def test_a_mask_of_as_many_bright_as_dark_instances_is_refused(tmp_path):
    values = np.repeat(np.r_[0, np.arange(40, 260, 10)], 9).astype(np.uint8)
    Image.fromarray(np.repeat(values[None], 9, axis=0)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="much of it is at or below 127; it may hold classes"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("width", [3, 4])
def test_thin_scratches_with_soft_edges_are_cut_in_the_middle(tmp_path, width):
    large = Image.new("L", (1024, 1024))
    draw = ImageDraw.Draw(large)
    for n in range(5):
        draw.line((100, 150 * n + 40, 900, 110 * n + 200), fill=255, width=4 * width)
    large.resize((256, 256), Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").sum() > 3 * 190 * width


def test_a_mask_of_classes_without_background_is_refused(tmp_path):
    Image.fromarray(np.array([[1, 1, 2]], dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m.png has 2 grey levels and no background"):
        read_mask(tmp_path / "m.png")
    Image.fromarray(np.array([[9, 9, 9]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").all()


@pytest.mark.parametrize("classes", [20, 150])
def test_a_mask_of_many_classes_is_refused_rather_than_cut(tmp_path, classes):
    # Twice as much area for the low ones: cutting would lose most of the defects.
    values = np.repeat(np.arange(classes + 1), np.where(np.arange(classes + 1) < 128, 4, 2))
    Image.fromarray(values[None].astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(InputError) as error:
        read_mask(tmp_path / "m.png")
    assert_one_line(error, "m.png", "grey levels", "0 and 255")


def test_classes_in_a_palette_count_by_colour(tmp_path):
    classes = Image.fromarray(np.array([[0, 1, 2, 8]], dtype=np.uint8)).convert("P")
    palette = np.zeros((256, 3), np.uint8)
    palette[[1, 2, 8]] = [[128, 0, 0], [0, 128, 0], [64, 0, 0]]  # as in PASCAL VOC
    classes.putpalette(palette.tobytes())
    classes.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True, True, True]]
    palette[2] = 0  # a class in the background's colour
    classes.putpalette(palette.tobytes())
    classes.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True, True, True]]


def test_mask_in_one_colour_counts_by_its_brightest_channel(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 1], [False, True, True]), ([0, 20000, 65535], [False, True, True])],
)
def test_16_bit_masks(tmp_path, values, expected):
    Image.fromarray(np.array([values], dtype=np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png")[0].tolist() == expected


def white_is_zero(path, values):
    """A 16-bit TIFF whose 0 is white; Pillow writes none, so a tag is changed."""
    Image.fromarray(values).save(path)
    content = path.read_bytes()
    tag = struct.pack("<HHII", 262, 3, 1, 1)
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag, struct.pack("<HHII", 262, 3, 1, 0)))


def test_16_bit_tiffs_whose_zero_is_white_are_read_right(tmp_path):
    values = (257 * RAMP).astype(np.uint16)
    white_is_zero(tmp_path / "a.tif", 65535 - values)
    assert np.array_equal(pixels(tmp_path / "a.tif")[:, :, 0], RAMP)
    white_is_zero(tmp_path / "m.tif", np.array([[65535, 0]], np.uint16))
    assert read_mask(tmp_path / "m.tif").tolist() == [[False, True]]


ODD = (0, -1, 7, 2**31, 1.5, float("nan"), "", "x", "\0", b"", b"\xff\xfe", (1, 2, 3), ("a", "b"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("turned", [1, 6])
def test_odd_tags_cost_one_image_at_most(tmp_path, suffix, turned):
    # Whatever decoders make of them: the right pixels, or one line that names the file.
    rng = np.random.default_rng(0)
    image, path, read = Image.effect_noise((16, 8), 60), tmp_path / f"a.{suffix}", 0
    for _ in range(150):
        exif = Image.Exif()
        exif[0x0112] = turned
        for tag in rng.choice([*ExifTags.TAGS, 700, 33723, 34377, 34665, 34853, 41729], 3):
            exif[int(tag)] = ODD[rng.integers(len(ODD))]
        exif[0x0112] = turned
        try:
            image.save(path, exif=exif, quality=100)
        except Exception:  # what Pillow cannot write either
            continue
        for call in (read_image, read_mask, read_size):
            try:
                found = call(path)
            except InputError as error:
                assert "\n" not in str(error) and str(path) in str(error)
            else:
                read += 1
                if call is read_size and suffix != "png":  # which is taken as it lies
                    assert found == read_image(path).size[::-1]
                if call is read_image:
                    assert found.size == ((8, 16) if turned == 6 else (16, 8))
    assert read > 100


@pytest.mark.parametrize(
    "error", [TypeError, ValueError, RecursionError, AssertionError, IndexError]
)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def fail(*args):
        raise error("two\nlines")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    for call in (read_image, read_mask):
        with pytest.raises(InputError) as found:
            call(tmp_path / "a.png")
        assert_one_line(found, "a.png", "two lines")


@pytest.mark.parametrize(
    ("image_size", "crop_size", "native", "expected"),
    [
        (256, 224, (300, 300), (224, 224)),
        (256, 224, (618, 103), (224, 224)),
        (224, None, (618, 103), (224, 224)),
        ([64, 128], None, (30, 50), (64, 128)),
        ([64, 128], [32, 100], (30, 50), (32, 100)),
        (64, [32, 60], (100, 300), (32, 60)),
    ],
)
def test_output_shape_is_what_images_and_masks_get(image_size, crop_size, native, expected):
    seen = ResizeCrop(image_size, crop_size)
    assert seen.output_shape == expected
    w, h = native
    assert seen.image(Image.new("RGB", (w, h))).size == expected[::-1]
    assert seen.mask(np.ones((h, w), dtype=bool)).shape == expected


def test_crop_keeps_the_aspect_and_takes_the_centre():
    wide = np.zeros((100, 300), dtype=np.uint8)
    wide[:, 100:200] = 255
    image = Image.fromarray(wide).convert("RGB")
    assert np.asarray(ResizeCrop(100, 100).image(image)).min() == 255
    assert ResizeCrop(100, 100).mask(wide > 0).all()
    # Without a crop everything is in view, squeezed.
    assert np.asarray(ResizeCrop(99, None).image(image))[:, :, 0].mean() == pytest.approx(85, abs=2)


def test_image_is_antialiased_and_mask_is_not():
    checker = np.indices((64, 64)).sum(axis=0) % 2
    image = Image.fromarray((checker * 255).astype(np.uint8)).convert("RGB")
    inner = np.asarray(ResizeCrop(16, None).image(image))[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 127).max() < 10
    stripes = np.zeros((64, 64), dtype=bool)
    stripes[:, 2::4] = True  # the columns that nearest sampling picks, a quarter of the area
    assert ResizeCrop(16, None).mask(stripes).all()


def test_image_of_the_right_size_is_left_as_it_is():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(ResizeCrop(64, None).image(Image.fromarray(noise))), noise)


def test_mask_outside_the_crop_is_lost_but_a_tiny_one_inside_is_not():
    corner = np.zeros((300, 300), dtype=bool)
    corner[:10, :10] = True
    assert not ResizeCrop(256, 224).shows(corner) and ResizeCrop(256, None).shows(corner)
    assert not ResizeCrop(256, 224).mask(corner).any()
    dot = np.zeros((300, 300), dtype=bool)
    dot[150, 150] = True
    assert ResizeCrop(32, 16).shows(dot)


@pytest.mark.parametrize(
    ("image_size", "crop_size", "named"),
    [
        (0, None, "image_size=0"),
        (-5, 3, "image_size=-5"),
        (64, 0, "crop_size=0"),
        (64, 65, "crop_size=65"),
        ([64, 32], 33, "crop_size=33"),
        ([64], None, "image_size=[64]"),
        ([64, 64, 3], None, "image_size=[64, 64, 3]"),
        (64.5, None, "image_size=64.5"),
        ("64", None, "image_size=64"),
        (True, None, "image_size=True"),
    ],
)
def test_impossible_sizes_are_one_line(image_size, crop_size, named):
    with pytest.raises(InputError) as error:
        ResizeCrop(image_size, crop_size)
    assert_one_line(error, named)


def test_an_orientation_in_xmp_alone_turns_the_size_too(tmp_path):
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    name = "a.jpg"
    Image.new("RGB", (80, 40)).save(tmp_path / name, xmp=xmp.encode())
    if b"tiff:Orientation" not in (tmp_path / name).read_bytes():
        pytest.skip("this Pillow writes no XMP into a JPEG")
    assert read_size(tmp_path / name) == read_image(tmp_path / name).size[::-1] == (80, 40)


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_of_several_pages_the_first_is_read(tmp_path, suffix):
    first, second = Image.new("L", (9, 4), 40), Image.new("L", (9, 4), 200)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True)
    assert read_image(tmp_path / f"a.{suffix}").getcolors() == [(36, (40, 40, 40))]
    assert read_size(tmp_path / f"a.{suffix}") == (4, 9)
