"""Types of the fields of result files: plain data, checked for form and range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationError

LARGEST = 1e18  # no measured figure comes near, and larger ones overflow


class DamagedError(ValueError):
    """A result file does not hold what its kind requires; the message says what is wrong."""


class ResultModel(BaseModel):
    """Base of all parts of result files; unknown fields of newer versions are preserved."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that were given, as plain data."""
        return self.model_dump(exclude_unset=True, warnings=False)


def shown(value: object) -> str:
    """Return a short text of a wrong value for an error message."""
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"{value!r:.40}"


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
        raise ValueError(f"is {shown(value)}, not a finite number")
    return value


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"is {value:g}, not in [0, 1]")
    return value


def _outcome(value: float) -> float:
    if value not in (0, 1):
        raise ValueError(f"is {value:g}, neither 0 nor 1")
    return value


def _interval(ends: list[float]) -> list[float]:
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"is {list(ends)!r:.40}, not an interval")
    return ends


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def whole_number(value: object) -> int | None:
    """Return a whole number of at least 0; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST else None


def fields(value: object) -> dict[str, Any]:
    """Return an object's fields; none for anything else."""
    return dict(value) if isinstance(value, Mapping) else {}


# These must have the right form.
Number = Annotated[float, PlainValidator(_number)]
Share = Annotated[Number, AfterValidator(_share)]
Outcomes = list[Annotated[Number, AfterValidator(_outcome)]]
Interval = Annotated[list[Number], AfterValidator(_interval)]
# These are empty where the form is wrong: the rest of the file can be used without them.
Text = Annotated[str, BeforeValidator(_text)]
OptionalText = Annotated[str | None, BeforeValidator(lambda value: _text(value) or None)]
Count = Annotated[int | None, BeforeValidator(whole_number)]
Lenient = BeforeValidator(fields)  # anything but an object counts as empty
Fields = Annotated[dict[str, Any], Lenient]
EmptyAsNone = BeforeValidator(lambda value: value or None)
NoneAsEmpty = BeforeValidator(lambda value: value or [])


def check_around(value: float, interval: Interval, what: str) -> None:
    """Check that an interval holds the value that it belongs to."""
    low, high = interval
    if not low - 1e-6 <= value <= high + 1e-6:
        raise ValueError(f"{what} from {low:g} to {high:g} leaves out its value {value:g}")


def invalid_reason(error: ValidationError) -> str:
    """Return in one line what is wrong with a file, by its first error."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    where = " ".join(".".join(map(str, first["loc"])).split())[:80]
    if kind == "value_error":
        return f"{where} {context['error']}".strip()
    forms = {
        "missing": "is missing",
        "dict_type": "is not an object",
        "model_type": "is not an object",
        "list_type": "is not a list",
        "string_type": f"is {shown(first['input'])}, not text",
        "literal_error": f"is {shown(first['input'])}, not {context.get('expected')}",
    }
    return f"{where or 'the file'} {forms.get(kind, first['msg'].lower())}"
