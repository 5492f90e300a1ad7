"""Folders as people have them: other bit depths, turned photographs, hidden copies, other names of the parts."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import kdiga
from kdiga.errors import InputError
from kdiga.runs.fingerprints import fingerprint_of_images
from tests.data.pictures import class_folders, picture

RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))


def loaded(folder, **options):
    data = kdiga.load_data(folder, workers=0, **options)
    return data, torch.cat([data.train.images, data.test.images])


def twenty(folder, image, suffix):
    for name in "ab":
        (folder / name).mkdir()
        for number in range(10):
            image.save(folder / name / f"{number}.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_images_are_scaled(suffix, tmp_path):
    image = Image.fromarray((RAMP * 65535).round().astype(np.uint16))
    data, images = loaded(twenty(tmp_path, image, suffix))
    assert torch.equal(images[0, 0], torch.from_numpy((RAMP * 255).round().astype(np.uint8)))
    assert "16-bit images" in data.notes[0]


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating-point"), (np.int32, "integers of 32 bits")])
def test_images_without_a_known_range_are_refused_by_name(kind, words, tmp_path):
    twenty(tmp_path, Image.fromarray((RAMP * 4095).astype(kind)), "tif")
    with pytest.raises(InputError, match=rf"\d\.tif' cannot be read as an image \(its pixels are {words}"):
        loaded(tmp_path)
    with pytest.raises(InputError):
        loaded(tmp_path, skip_corrupt=True)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [None, 8])
def test_photographs_are_turned_as_their_exif_says(orientation, size, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :, 0], pixels[:, :8, 1] = 255, 255
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png", exif=exif)
    with Image.open(tmp_path / "a" / "0.png") as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    _, images = loaded(tmp_path, image_size=size)
    expected = upright if size is None else upright.resize((8, 8), Image.Resampling.BICUBIC)
    assert torch.equal(images[0].permute(1, 2, 0), torch.from_numpy(np.asarray(expected).copy()))


def test_hidden_and_system_files_are_passed_over_at_every_level(tmp_path):
    folder = class_folders(tmp_path / "data", suffix="png")
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        shutil.copytree(folder / "class-0", folder / "class-0" / hidden)
        shutil.copytree(folder / "class-0" / hidden, folder / hidden)
    (folder / "class-1" / "._000.png").write_bytes(b"AppleDouble")
    (folder / "class-1" / "more").symlink_to(folder / "class-2")
    os.mkfifo(folder / "class-1" / "pipe.png")
    data, images = loaded(folder, image_size=16)
    assert (len(images), data.train.num_classes) == (24, 3)
    assert data.notes == (f"ignored, because they are not images: 2 (1 link to a folder, 1 .png) in {folder}",)


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "validation"),
        ("train", "valid"),
        ("train", "dev"),
        ("Train", "Test"),
        ("training", "testing"),
        ("training_set", "test_set"),
        ("TRAIN", "val"),
    ],
)
def test_the_usual_names_of_parts_are_known(parts, tmp_path):
    for part, each in zip(parts, (4, 2), strict=True):
        class_folders(tmp_path / part, suffix="png", each=each)
    data = kdiga.load_data(tmp_path, workers=0, image_size=16)
    assert (len(data.train), len(data.test), data.train.num_classes, data.notes) == (12, 6, 3, ())


def test_parts_that_are_not_used_are_named(tmp_path):
    for part in ("train", "val", "test"):
        class_folders(tmp_path / part, suffix="png", each=2)
    (note,) = kdiga.load_data(tmp_path, workers=0, image_size=16).notes
    assert note == f"'train' and 'test' are used; not used in {tmp_path}: val"


def test_parts_of_other_names_are_no_classes(tmp_path):
    for part in ("first", "second"):
        class_folders(tmp_path / part, suffix="png", each=2)
    with pytest.raises(InputError, match=r"first, second in .* all contain the folders class-0, class-1, class-2"):
        kdiga.load_data(tmp_path, workers=0, image_size=16)


def test_one_folder_that_every_class_has_is_a_usual_layout(tmp_path):
    for label in range(2):
        for number in range(10):
            picture(tmp_path / f"class-{label}" / "images" / f"{number}.png", (8, 8), 10 * label + number)
    assert len(loaded(tmp_path)[1]) == 20


def test_further_files_never_move_an_image_to_the_other_part(tmp_path):
    folder = class_folders(tmp_path, suffix="png", each=40)

    def names(part):
        return {part.storage.key(row) for row in part.rows.tolist()}

    before = kdiga.load_data(folder, workers=0, image_size=16, in_memory=False)
    for label in range(3):
        for number in range(20):
            picture(folder / f"class-{label}" / f"000-{number}.png", (20, 20), number)
    after = kdiga.load_data(folder, workers=0, image_size=16, in_memory=False)
    assert names(before.train) <= names(after.train)
    assert names(before.test) <= names(after.test)
    assert 12 <= len(before.test) <= 36
    assert len(after.train) + len(after.test) == 180


def test_a_set_too_small_for_a_test_part_is_refused(tmp_path):
    with pytest.raises(InputError, match="too few to choose a test part"):
        kdiga.load_data(class_folders(tmp_path, classes=2, each=1, suffix="png"), workers=0, image_size=16)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(32, 16), (16, 32)])
def test_images_are_padded_or_stretched(resize, size, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", size, (200, 0, 0)).save(tmp_path / name / f"{number}.png")
    _, images = loaded(tmp_path, image_size=8, resize=resize)
    expected = torch.full((8, 8), 200, dtype=torch.uint8)
    if resize == "pad":
        expected[:2], expected[6:] = 0, 0
    assert torch.equal(images[0, 0], expected if size[0] > size[1] else expected.T)
    with pytest.raises(InputError, match=r"resize was .* without an image_size"):
        loaded(tmp_path, resize=resize)


def test_links_to_files_and_capital_suffixes_are_images(tmp_path):
    folder = class_folders(tmp_path / "pictures", suffix="png", classes=2, each=10)
    (folder / "class-0" / "000.png").rename(folder / "class-0" / "000.PNG")
    (folder / "class-1" / "link.png").symlink_to(folder / "class-0" / "001.png")
    assert len(loaded(folder, image_size=8)[1]) == 21


def table(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(names, *columns):
    return "".join(",".join((name, *(column(name) for column in columns))) + "\n" for name in names)


def test_a_table_is_a_data_set(tmp_path):
    folder = class_folders(tmp_path, suffix="png", each=20)
    names = sorted(str(one.relative_to(folder)) for one in folder.rglob("*.png"))

    def label(name):
        return name.partition("/")[0]

    def part(name):
        return "Validation" if name.endswith("5.png") else "train"

    plain = kdiga.load_data(folder, workers=0, image_size=8)
    listed = kdiga.load_data(table(folder, "\ufefffile,label\n" + rows(names, label)), workers=0, image_size=8)
    assert listed.train.classes == plain.train.classes
    for one, other in ((listed.train, plain.train), (listed.test, plain.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    text = "id,Image,Class,Split\n" + "".join(f"7,{line}\n" for line in rows(names, label, part).splitlines())
    given = kdiga.load_data(table(tmp_path.parent, text), root=folder, workers=0, image_size=8)
    assert (len(given.train), len(given.test), given.notes) == (54, 6, ())


@pytest.mark.parametrize(
    "spelling", ["./{name}", "class-0/../{name}", "../pictures/{name}", "{folder}/{name}", "{link}/{name}"]
)
@pytest.mark.parametrize("root", ["pictures", "link"])
def test_the_spelling_of_a_path_does_not_change_the_test_part(spelling, root, tmp_path):
    folder = class_folders(tmp_path / "deep" / "pictures", suffix="png", each=20)
    (tmp_path / "link").symlink_to(folder)
    place = folder if root == "pictures" else tmp_path / "link"
    names = sorted(str(one.relative_to(folder)) for one in folder.rglob("*.png"))
    lines = [
        f"{spelling.format(name=name, folder=folder, link=tmp_path / 'link')},{name.partition('/')[0]}\n"
        for name in names
    ]
    plain = kdiga.load_data(folder, workers=0, image_size=8, in_memory=False)
    path = table(tmp_path, "file,label\n" + "".join(lines))
    listed = kdiga.load_data(path, root=place, workers=0, image_size=8, in_memory=False)
    for one, other in ((listed.train, plain.train), (listed.test, plain.test)):
        assert fingerprint_of_images(one) == fingerprint_of_images(other)


def test_an_absolute_path_outside_a_linked_folder_is_read(tmp_path):
    folder = class_folders(tmp_path / "deep" / "pictures", suffix="png", each=20)
    (tmp_path / "deep" / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "other")
    text = "file,label\n" + "".join(f"{one},{one.parent.name}\n" for one in sorted(folder.rglob("*.png")))
    data = kdiga.load_data(table(tmp_path, text), root=tmp_path / "link", workers=0, image_size=8)
    assert len(data.train) + len(data.test) == 60


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", "-1", "0", "10", "9"], ["-1", "0", "1", "9", "10"]),
        (["10.0", "+2", "1e1", "-0.5"], ["-0.5", "+2", "10.0", "1e1"]),
        (["b", "nan", "2", "inf", "9" * 5000], ["2", "9" * 5000, "b", "inf", "nan"]),
    ],
)
def test_numbers_sort_as_numbers(labels, expected, tmp_path):
    names = [f"{row}.png" for row in range(20 * len(labels))]
    for row, name in enumerate(names):
        picture(tmp_path / name, (8, 8), row)
    text = "file,label\n" + "".join(f"{name},{labels[row % len(labels)]}\n" for row, name in enumerate(names))
    assert list(kdiga.load_data(table(tmp_path, text), workers=0).train.classes) == expected


def test_a_part_for_validation_is_no_part_of_the_tests(tmp_path):
    """Of a table, too, the test part is the first of the usual names; a label of the other rows is no class."""
    class_folders(tmp_path, suffix="png", each=4)
    parts = ("Train", "Train", "val_set", "test")
    rows = [f"class-{label}/{row:03}.png,{label},{part}\n" for label in range(3) for row, part in enumerate(parts)]
    rows[2] = rows[2].replace(",0,", ",9,")
    path = table(tmp_path, "file,label,split\n" + "".join(rows))
    data = kdiga.load_data(path, workers=0, image_size=8)
    assert (len(data.train), len(data.test), data.train.num_classes) == (6, 3, 3)
    assert data.notes == (f"'train' and 'test' are used; not used in {path}: val (3 rows)",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none; give file and label"),
        ("name,kind\na,b\n", "has the columns name, kind"),
        ("file,label\n", "lists no file"),
        ("file,label\na.png,1\na.png,2\n", "lists 'a.png' twice"),
        ("file,label\na.png,1\n./a.png,2\n", "lists 'a.png' twice"),
        ("file,label,split\nb/a.png,1,train\nb//c/../a.png,2,test\n", "lists 'b/a.png' twice"),
        ("file,label\na.png,\n", "no label in row 2"),
        ("file,label\na.png,1\nb.png,1\n", "2 files and 1 labels"),
        ("file,label,split\na.png,1,train\nb.png,2,both\n", "has the split 'both' in row 3"),
        ("file,label,split\na.png,1,train\nb.png,2,train\n", "has only the splits train; give rows of train and test"),
        ("file,label\na.png,1\nb.png,2\n", "a.png' cannot be read"),
    ],
)
def test_a_wrong_table_is_one_sentence(text, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        kdiga.load_data(table(tmp_path, text), workers=0)
    assert "\n" not in str(caught.value)
