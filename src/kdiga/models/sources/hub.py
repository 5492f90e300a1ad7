"""``hf-hub:ORG/NAME``: models of the Hugging Face Hub that timm or kdiga wrote, or a copy in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from kdiga.errors import InputError, reason_of
from kdiga.io.safe_json_yaml import load_json
from kdiga.models.checkpoint import read_checkpoint
from kdiga.models.classifier import Classifier, WeightsOrigin
from kdiga.models.foreign import from_file, with_new_head
from kdiga.models.registry import ModelSource, SourceRequest, missing_package, register_source
from kdiga.models.sources.timm import create, replace_head, spec_of_settings

WEIGHTS = "model.safetensors"
OLD_WEIGHTS = "pytorch_model.bin"
CONFIG = "config.json"
LARGEST = 100_000  # channels, pixels or classes; a larger network would use up the memory before its weights are read
# timm's network gets these from the spec; the other arguments in the file are the architecture's.
_OF_SPEC = ("num_classes", "in_chans", "img_size")


@register_source
class Hub(ModelSource):
    """A repository ORG/NAME, or ORG/NAME@REVISION, or a folder with its files."""

    prefix = "hf-hub"
    form = "hf-hub:ORG/NAME"
    extra = "hub"

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the model of a repository or a folder; a copy in the Hub's cache is used unchanged."""
        request.refuse("the Hub's models know their own", "architecture", "matched", "weights")
        folder = Path(name).expanduser()
        if not folder.is_dir():
            folder = self._snapshot(name)
        weights = next((folder / one for one in (WEIGHTS, OLD_WEIGHTS) if (folder / one).is_file()), None)
        if weights is None:
            raise InputError(f"{request.name!r} holds no {WEIGHTS}; kdiga reads models that timm or kdiga wrote.")
        # Read here first: this finds kdiga's files, and refuses a pickle of more than tensors before timm loads it.
        if read_checkpoint(weights).spec is not None:
            model = from_file(weights, request.given)
            model.origin = WeightsOrigin(request.name, trained=True)
            return model
        return _timm_model(request, folder)

    def _snapshot(self, name: str) -> Path:
        try:
            from huggingface_hub import snapshot_download
        except ImportError:
            raise missing_package(self, "huggingface_hub") from None
        repository, _, revision = name.partition("@")
        if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
            raise InputError(
                f"{self.prefix}:{name} is neither a folder nor an ORG/NAME of the Hub; give one of the two."
            )
        wanted: dict[str, Any] = {"revision": revision or None, "allow_patterns": [CONFIG, WEIGHTS, OLD_WEIGHTS]}
        try:
            folder = Path(snapshot_download(repository, local_files_only=True, **wanted))
            if any((folder / one).is_file() for one in (WEIGHTS, OLD_WEIGHTS)):
                return folder
        except (OSError, ValueError):
            pass
        try:
            return Path(snapshot_download(repository, **wanted))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.prefix}:{name} could not be fetched ({reason_of(error, 160)}); download {CONFIG} and {WEIGHTS} "
                f"from https://huggingface.co/{repository} by hand into a folder, and give that: {self.prefix}:FOLDER."
            ) from error


def _timm_model(request: SourceRequest, folder: Path) -> Classifier:
    import timm

    config = _config(request, folder)
    architecture = config.get("architecture", "")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(
            f"{request.name!r} is a model of {config.get('library_name') or config.get('model_type') or 'no kind'!r} "
            f"that timm does not know (architecture {architecture!r}); kdiga reads models that timm or kdiga wrote."
        )
    settings = _settings(request, config)
    spec = spec_of_settings(request, f"timm:{architecture}", settings)
    options = {key: value for key, value in _record(request, config, "model_args").items() if key not in _OF_SPEC}
    spec = type(spec).from_dict(spec.to_dict() | {"options": options | dict(request.options)})
    network = create(f"local-dir:{folder}", spec, pretrained=True)
    model = Classifier(spec, network, WeightsOrigin(f"{request.name}, {architecture} of timm", trained=True)).eval()
    return with_new_head(model, request.outputs(settings["num_classes"]), replace_head)


def _config(request: SourceRequest, folder: Path) -> dict[str, Any]:
    try:
        config = load_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{request.name!r} has no readable {CONFIG} ({error}), which states a model's architecture; download it "
            "again."
        ) from None
    return config if isinstance(config, dict) else {}


def _settings(request: SourceRequest, config: dict[str, Any]) -> dict[str, Any]:
    # Newer files have the settings of the weights under pretrained_cfg, older ones next to the architecture.
    found = config | _record(request, config, "pretrained_cfg")
    found["num_classes"] = config.get("num_classes", found.get("num_classes"))
    missing = [name for name in ("input_size", "num_classes", "mean", "std") if found.get(name) is None]
    if missing:
        raise InputError(f"{request.name!r} does not say its {', '.join(missing)} in {CONFIG}; kdiga guesses none.")
    size = found["input_size"]
    if not (isinstance(size, list) and len(size) == 3 and all(map(_is_size, [*size, found["num_classes"]]))):
        raise InputError(
            f"{request.name!r} says in {CONFIG} that images are {size!s:.60} and classes "
            f"{found['num_classes']!s:.60}; they must be three whole numbers and one, from 1 to {LARGEST:,}."
        )
    if not all(isinstance(found[name], list) and all(map(_is_number, found[name])) for name in ("mean", "std")):
        raise InputError(f"{request.name!r} has a mean or std in {CONFIG} that is not a list of numbers.")
    return {name: found[name] for name in ("input_size", "num_classes", "mean", "std")}


def _record(request: SourceRequest, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise InputError(f"{request.name!r} has {name} in {CONFIG} that is not an object; download it again.")
    return cast("dict[str, Any]", found)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
