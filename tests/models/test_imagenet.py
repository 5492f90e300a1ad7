"""ImageNet's classes by WordNet id and by label."""

from __future__ import annotations

import pytest
from timm.data.imagenet_info import ImageNetInfo

from kdiga.errors import InputError
from kdiga.models.imagenet import are_wordnet_ids, indices_of

# The ten of Imagenette with their indices, as its authors list them.
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def test_wordnet_ids():
    assert indices_of(list(IMAGENETTE), 1000) == tuple(IMAGENETTE.values())
    assert are_wordnet_ids(list(IMAGENETTE))
    assert not are_wordnet_ids(["n99999999"])
    assert not are_wordnet_ids([*IMAGENETTE, "tench"])
    info = ImageNetInfo()
    assert indices_of([info.index_to_label_name(index) for index in range(1000)], 1000) == tuple(range(1000))


def test_labels_in_any_spelling():
    assert indices_of(["tench", "English_springer", "cassette player", "Tinca tinca"], 1000) == (0, 217, 482, 0)


@pytest.mark.parametrize(
    ("classes", "outputs", "message"),
    [
        (["crane"], 1000, r"2 classes of ImageNet, \[134, 517\]"),
        (["tenck"], 1000, "did you mean 'tench'"),
        (["airplane9x9"], 1000, "not a class of ImageNet-1k"),
        (["tench"], 21841, "give classes as a list"),
    ],
)
def test_bad_names(classes, outputs, message):
    with pytest.raises(InputError, match=message):
        indices_of(classes, outputs)
