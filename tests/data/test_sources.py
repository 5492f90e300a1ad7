"""ImageNet's layout, WebDataset shards and Hugging Face data sets, all made on the spot."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import kdiga
from kdiga.data import FileSet, ImageSet
from kdiga.data.webdataset import _samples
from kdiga.errors import InputError
from kdiga.models import save_model
from kdiga.recipes.validate import load_recipe
from kdiga.workflows.prepare import build_models, load_recipe_data
from tests.data.pictures import picture

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """One small picture for each of a thousand classes, twice."""
    root = tmp_path_factory.mktemp("images")
    picture(root / "one.jpg", (30, 20), 1)
    content = (root / "one.jpg").read_bytes()
    for part in ("train", "val"):
        for number in range(1000):
            folder = root / "imagenet" / part / f"n{number:08}"
            folder.mkdir(parents=True)
            (folder / "one.JPEG").write_bytes(content)
    return root


def test_imagenet_is_nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("KDIGA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"imagenet is not in .*ILSVRC2012_img_train.tar.*FOLDER/val/n01440764"):
        kdiga.load_data("imagenet", root=tmp_path)


def test_the_recipe_for_imagenet(imagenet, tmp_path):
    """All of it but the fetched weights."""
    save_model(kdiga.load_model("cnn-4", num_classes=1000, image_size=224), tmp_path / "teacher.safetensors")
    overrides = [
        f"data.root={imagenet}",
        "data.in_memory=false",
        f"teacher={tmp_path / 'teacher.safetensors'}",
        "student.pretrained=false",
    ]
    recipe = load_recipe(RECIPES / "imagenet-kdiga.yaml", overrides)
    data = load_recipe_data(recipe.data)
    assert build_models(recipe, data).student.spec.takes == (3, 224, 1000)


def test_imagenet_has_a_thousand_classes(imagenet):
    data = kdiga.load_data("imagenet", root=imagenet, in_memory=False, workers=0)
    assert isinstance(data.train, FileSet)
    assert (data.name, len(data.train), data.train.num_classes, data.train.image_size) == ("imagenet", 1000, 1000, 224)
    assert sorted(data.train.labels.tolist()) == list(range(1000))
    assert data.train.classes[7] == "n00000007"
    train = imagenet / "imagenet" / "train"
    (train / "n00000007").rename(train / "goldfish")
    with pytest.raises(InputError, match=r"1000 class folders, 'goldfish' among them; ImageNet has 1,000"):
        kdiga.load_data("imagenet", root=imagenet)


def shard(path, samples, *, mode="w", kind="cls"):
    """Write a tar file of (name, class) samples with pictures whose colour is the class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, label in samples:
            picture_bytes = io.BytesIO()
            Image.new("RGB", (20, 18), (60 * label, 10, 0)).save(picture_bytes, "PNG")
            labels = {"cls": str(label), "json": json.dumps({"label": label}), "other": "{}", "bad": "dog"}[kind]
            suffix = {"other": "json", "bad": "cls"}.get(kind, kind)
            for file, content in ((f"{name}.png", picture_bytes.getvalue()), (f"{name}.{suffix}", labels.encode())):
                member = tarfile.TarInfo(file)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_shards(tmp_path):
    for number in range(2):
        shard(tmp_path / f"train-{number:02}.tar", [(f"{number}/{row:03}", row % 3) for row in range(9)])
    shard(tmp_path / "val-00.tar", [(f"v{row}", row % 3) for row in range(6)], kind="json")
    lazy = kdiga.load_data(f"wds:{tmp_path}", image_size=16, in_memory=False, workers=1)
    held = kdiga.load_data(f"wds:{tmp_path}/*-{{00..01}}.tar", image_size=16)
    assert isinstance(lazy.train, FileSet)
    assert isinstance(held.train, ImageSet)
    assert (len(lazy.train), len(lazy.test), lazy.train.num_classes) == (18, 6, 3)
    assert torch.equal(lazy.train.load().images, held.train.images)
    for part in (held.train, held.test):
        assert isinstance(part, ImageSet)
        assert torch.equal(part.images[:, 0, 4, 4].long(), 60 * part.labels)
    assert kdiga.load_data("wds:.", root=tmp_path, image_size=16).train.labels.tolist() == held.train.labels.tolist()


def test_shards_for_validation_are_no_part_of_the_tests(tmp_path):
    for part, size in (("train", 9), ("val", 6), ("test", 3)):
        shard(tmp_path / f"{part}-00.tar", [(f"{part}{row}", row % 3) for row in range(size)])
    data = kdiga.load_data(f"wds:{tmp_path}", image_size=16)
    assert (len(data.train), len(data.test)) == (9, 3)
    assert data.notes == (f"'train*' and 'test*' are used; not used in {tmp_path}: val-00.tar",)
    assert data.source.startswith("2 tar files")


def test_shards_without_parts_are_split(tmp_path):
    shard(tmp_path / "a.tar", [(f"{row:03}", row % 2) for row in range(10)])
    data = kdiga.load_data(f"wds:{tmp_path / 'a.tar'}", image_size=16)
    assert (len(data.train), len(data.test)) == (8, 2)


def test_bad_shards(tmp_path):
    with pytest.raises(InputError, match="matches no file"):
        kdiga.load_data(f"wds:{tmp_path}")
    shard(tmp_path / "z" / "a.tar", [("1", 0)], mode="w:gz")
    shard(tmp_path / "u" / "a.tar", [("1", 0)], kind="other")
    shard(tmp_path / "b" / "a.tar", [("1", 0)], kind="bad")
    shard(tmp_path / "m" / "a.tar", [("1", 0)])
    shard(tmp_path / "m" / "train.tar", [("1", 0)])
    for folder, message in (
        ("z", "cannot be read as an uncompressed tar"),
        ("u", "1 images without a label, such as '1.png'"),
        ("b", "a.tar:1.cls' holds no class number"),
        ("m", "1 tar files named train.*0 named val.*1 others"),
    ):
        with pytest.raises(InputError, match=message):
            kdiga.load_data(f"wds:{tmp_path / folder}", image_size=16)
    tarfile.open(tmp_path / "empty.tar", "w").close()
    with pytest.raises(InputError, match=r"the tar files in '.*' hold no images \(bmp, jpeg"):
        kdiga.load_data(f"wds:{tmp_path / 'empty.tar'}", image_size=16)
    path = shard(tmp_path / "c" / "a.tar", [(f"{row}", row % 2) for row in range(10)])
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDOT", 1))
    with pytest.raises(InputError, match=r"a.tar:0.png' cannot be read as an image"):
        kdiga.load_data(f"wds:{path}", image_size=16)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("1.jpg", "1.png"), r"a.tar' has two images of the sample '1': '1.jpg' and '1.png'; take one out"),
        (("1.png", "1.png"), r"a.tar' has two images of the sample '1': '1.png' and '1.png'"),
        (("1.png", "1.cls", "1.json"), r"a.tar' has two labels of the sample '1': 3 in '1.cls' and 5 in '1.json'"),
        (("1.png", "1.cls", "1.cls"), None),
        (("1.png", "1.cls", "1.mask"), None),
    ],
)
def test_a_sample_has_one_image_and_one_label(files, message, tmp_path):
    content = {"cls": b"3", "json": b'{"label": 5}', "mask": b"other"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in files:
            member = tarfile.TarInfo(name)
            data = content.get(name.partition(".")[2], b"picture")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    if message is None:
        assert list(_samples(tmp_path / "a.tar")) == ["1.png"]
        return
    with pytest.raises(InputError, match=message):
        kdiga.load_data(f"wds:{tmp_path}", image_size=16)


@pytest.mark.filterwarnings("ignore")  # of the library's own dependencies
def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    colours = [Image.new("RGB", (20, 20), (80 * (row % 3), 0, 0)) for row in range(12)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    table = datasets.Dataset.from_dict({"img": colours, "label": [row % 3 for row in range(12)]}, features)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table, "test": table.select(range(6))}).save_to_disk(str(tmp_path / "two"))
    parts = {"train": table, "validation": table.select(range(3)), "test": table.select(range(6))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "all"))
    (note,) = kdiga.load_data(f"hf:{tmp_path / 'all'}").notes
    assert note.startswith("'train' and 'test' are used; not used in hf:")
    assert note.endswith(": validation")
    both = kdiga.load_data(f"hf:{tmp_path / 'two'}", image_size=16, in_memory=False, workers=1)
    held = kdiga.load_data(f"hf:{tmp_path / 'two'}")
    assert isinstance(both.train, FileSet)
    assert isinstance(held.train, ImageSet)
    assert (len(both.train), len(both.test), list(both.train.classes)) == (12, 6, ["a", "b", "c"])
    assert held.train.image_size == 20
    images = both.train.load()
    assert torch.equal(images.images[:, 0, 3, 3].long(), 80 * images.labels)
    without = table.remove_columns("label")
    without.save_to_disk(str(tmp_path / "three"))
    with pytest.raises(InputError, match="1 columns of images and 0 of class labels among img"):
        kdiga.load_data(f"hf:{tmp_path / 'three'}")


@pytest.mark.filterwarnings("ignore")  # of the library's own dependencies
def test_bad_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")

    def table(labels, kind):
        features = datasets.Features({"img": datasets.Image(), "label": kind})
        pictures = [Image.new("RGB", (8, 8), (80, 0, 0)) for _ in labels]
        return datasets.Dataset.from_dict({"img": pictures, "label": labels}, features)

    two, other = datasets.ClassLabel(names=["a", "b"]), datasets.ClassLabel(names=["a", "c"])
    cases = {
        "parts": (datasets.DatasetDict({"test": table([0, 1], two)}), "has no part named train; it has test"),
        "classes": (
            datasets.DatasetDict({"train": table([0, 1], two), "test": table([0, 1], other)}),
            "have different classes: b, c",
        ),
        "unlabelled": (table([0, -1], two), "column 'label' of hf:.* holds -1: this part has no labels"),
        "words": (
            table(["a", "b"], datasets.Value("string")),
            "is of type Value.* and does not hold one whole number in each row; labels must be numbers from 0",
        ),
        "fractions": (table([0.6, 1.6], datasets.Value("float32")), "does not hold one whole number in each row"),
        "no label": (table([0, None], datasets.Value("int64")), "does not hold one whole number in each row"),
        "no class": (table([0, None], two), "does not hold one whole number in each row"),
        "several": (
            table([[0, 1], [1, 1]], datasets.Sequence(datasets.Value("int64"))),
            "does not hold one whole number",
        ),
        "infinite": (table([0, float("inf")], datasets.Value("float64")), "does not hold one whole number"),
        "nothing": (
            datasets.DatasetDict({"train": table([0, 1], two), "test": table([], two)}),
            "could not be loaded",
        ),
    }
    for name, (data, message) in cases.items():
        data.save_to_disk(str(tmp_path / name))
        with pytest.raises(InputError, match=message):
            kdiga.load_data(f"hf:{tmp_path / name}")


@pytest.mark.filterwarnings("ignore")  # of the library's own dependencies
@pytest.mark.parametrize("kind", ["int8", "uint8", "uint16", "int64", "float32", "bool"])
def test_the_classes_of_numbers_are_those_of_both_parts(kind, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value(kind)})
    labels = {"train": [0, 1, 1, 0], "test": [0, 0]} if kind == "bool" else {"train": [0, 1, 2, 3], "test": [2, 0]}
    parts = {
        part: datasets.Dataset.from_dict({"img": [Image.new("RGB", (8, 8))] * len(rows), "label": rows}, features)
        for part, rows in labels.items()
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path))
    data = kdiga.load_data(f"hf:{tmp_path}", workers=0)
    expected = sorted(map(str, set(labels["train"])))
    assert list(data.train.classes) == list(data.test.classes) == expected
    assert sorted(data.train.labels.tolist()) == sorted(labels["train"])
    assert sorted(data.test.labels.tolist()) == sorted(labels["test"])


@pytest.mark.filterwarnings("ignore")  # of the library's own dependencies
def test_an_empty_cell_is_an_image_that_cannot_be_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = [None if row == 5 else Image.new("RGB", (8, 8)) for row in range(20)]
    labels = [row % 2 for row in range(20)]
    datasets.Dataset.from_dict({"img": pictures, "label": labels}, features).save_to_disk(str(tmp_path))
    with pytest.raises(InputError, match=r"row 5' cannot be read as an image \(it is empty\); repair or remove it"):
        kdiga.load_data(f"hf:{tmp_path}", workers=0)
    data = kdiga.load_data(f"hf:{tmp_path}", workers=0, skip_corrupt=True)
    assert len(data.train) + len(data.test) == 19
    assert data.notes == (f"1 of 20 images cannot be read and were left out: hf:{tmp_path}, row 5 (it is empty)",)


def test_hugging_face_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'kdiga\[datasets\]'"):
        kdiga.load_data("hf:cifar10")
