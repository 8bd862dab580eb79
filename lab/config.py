"""What a study is made of, read from a TOML file: docs/lab.md, "Running", explains each table."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fednot.errors import FednotError
from server.methods import method_named

_WORD: Final = re.compile(r"[a-z0-9]+")

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class ConfigError(ValueError):
    """A configuration that is unknown or wrong; the message says where and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Study(_Part):
    """The name of the study, its seeds, and the folder of its results."""

    name: str = Field(min_length=1)
    seeds: tuple[Count, ...] = Field((0,), min_length=1)
    out: Path = Path("lab-out")


class DatasetSpec(_Part):
    """A dataset; `train` and `test` draw so many samples of each part, 0 for all of them.

    `folder` is where its files are below the folder of --data, `size` the side in pixels to which
    images of many sizes are brought, `augment` "", "crop" or "crop-flip". So many `proxy` samples
    are held out of the training part for methods that distil on the server.
    """

    name: str
    train: Count = 0
    test: Count = 0
    folder: Path = Path()
    size: Positive = 32
    augment: Literal["", "crop", "crop-flip"] = ""
    proxy: Count = 0

    @property
    def key(self) -> str:
        """What names it in a cell's id."""
        return slug(self.name)


class ModelSpec(_Part):
    """A model of the lab by its name."""

    name: str

    @property
    def key(self) -> str:
        """What names it in a cell's id."""
        return slug(self.name)


class PartitionSpec(_Part):
    """How the training samples are dealt out: `alpha` is Dirichlet's, `classes` pathological's.

    Each client has `minimum` samples or more. With "natural" there are as many clients as groups.
    """

    name: Literal["iid", "dirichlet", "pathological", "natural"]
    alpha: float = Field(0.5, gt=0, allow_inf_nan=False)
    classes: Positive = 2
    minimum: Positive = 10

    @property
    def key(self) -> str:
        """What names it in a cell's id."""
        told = {"dirichlet": f"{self.alpha:g}", "pathological": f"{self.classes}"}
        return slug(f"{self.name} {told.get(self.name, '')}")


class MethodSpec(_Part):
    """A method, NAME or NAME:VALUE, with all that varies it; `id` names it in a cell's id.

    `rounds` and `learning_rate` take the place of the recovery's; a retraining without `rounds` has
    as many as made the base. `config` is told to the clients in each of its rounds and steps.
    """

    name: str = Field(min_length=1)
    id: str = ""
    label: str = ""
    layers: str = "first"
    server_momentum: float = Field(0.0, ge=0, lt=1)
    rounds: Count = 0
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    config: dict[str, Number] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return method_named(name).name
        except FednotError as error:
            raise ValueError(error.message) from error

    @property
    def key(self) -> str:
        """What names it in a cell's id."""
        if self.id:
            return slug(self.id)
        parts = [self.name] if self.layers == "first" else [self.name, self.layers]
        if self.server_momentum:
            parts.append(f"momentum {self.server_momentum:g}")
        return "_".join(slug(part) for part in parts)

    @property
    def shown(self) -> str:
        """What reports call it."""
        return self.label or self.key.replace("_", " ")


class Training(_Part):
    """How the base is trained; `forget` is the client that is deleted, "" for the first by name.

    If a method needs updates, those of every `keep_updates`-th round are kept.
    """

    rounds: Positive = 10
    local_epochs: Positive = 1
    batch_size: Positive = 32
    learning_rate: float = Field(0.05, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    clients: Annotated[int, Field(ge=2)] = 10
    forget: str = ""
    keep_updates: Positive = 1

    @property
    def overrides(self) -> dict[str, float]:
        """The hyper-parameters that every client is told."""
        names = ("local_epochs", "batch_size", "learning_rate", "momentum", "weight_decay")
        return {name: float(getattr(self, name)) for name in names}


class Recovery(_Part):
    """How recovery goes; a hyper-parameter that is left out is the training's.

    `stop` "budget" runs all rounds, "target" stops by the product's rule, `tolerance` below the
    base's accuracy.
    """

    rounds: Positive = 10
    min_rounds: Positive = 2
    stop: Literal["budget", "target"] = "budget"
    tolerance: float = Field(0.01, ge=0, le=1)
    local_epochs: Positive | None = None
    batch_size: Positive | None = None
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: float | None = Field(None, ge=0, allow_inf_nan=False)

    @property
    def overrides(self) -> dict[str, float]:
        """The hyper-parameters that differ from the training's."""
        names = ("local_epochs", "batch_size", "learning_rate", "momentum", "weight_decay")
        given = {name: getattr(self, name) for name in names}
        return {name: float(value) for name, value in given.items() if value is not None}


class Measure(_Part):
    """What is measured beside accuracies and costs.

    `backdoor` poisons the client that is deleted; `undo` verifies with the undo attack;
    `relearning` is how many passes over a tenth of the forgotten samples are made, 0 for none;
    `deletions` how many clients are deleted in a row; the balanced membership attack is
    always made, the confidence attack if `mia` names it;
    `examples` is the most samples of a group that a score by round, or an attack, looks at.
    """

    backdoor: bool = False
    undo: bool = False
    relearning: Count = 0
    deletions: Positive = 1
    mia: tuple[Literal["balanced", "confidence"], ...] = ("balanced",)
    examples: Positive = 2000


class StudyConfig(_Part):
    """A whole study."""

    study: Study
    dataset: tuple[DatasetSpec, ...] = Field(min_length=1)
    model: tuple[ModelSpec, ...] = Field(min_length=1)
    partition: tuple[PartitionSpec, ...] = Field((PartitionSpec(name="iid"),), min_length=1)
    method: tuple[MethodSpec, ...] = Field(min_length=1)
    training: Training = Training()
    recovery: Recovery = Recovery()
    measure: Measure = Measure()

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        for what in ("dataset", "model", "partition", "method"):
            keys = [part.key for part in getattr(self, what)]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                hint = "give each an `id`" if what == "method" else "leave one out"
                raise ValueError(f"two of [[{what}]] are named {', '.join(twice)}; {hint}")
        labels = [method.shown for method in self.method]
        if len(set(labels)) < len(labels):
            raise ValueError("two of [[method]] have the same label; give each its own")
        if self.measure.deletions >= self.training.clients:
            raise ValueError(
                f"measure.deletions {self.measure.deletions} leaves none of the "
                f"{self.training.clients} clients; give fewer deletions or more clients"
            )
        return self


def read(path: Path) -> StudyConfig:
    """Reads a study's TOML file. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        return StudyConfig.model_validate(table)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_sentences(error))}") from error


def slug(text: str) -> str:
    """A text in small letters, digits and underscores, fit for a file's name."""
    return "_".join(_WORD.findall(text.lower()))


def _sentences(error: ValidationError) -> list[str]:
    found = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            found.append(f"{place} is unknown{_nearest(detail['loc'])}")
            continue
        said = str(detail.get("ctx", {}).get("error", detail["msg"]))
        found.append(f"{place}: {said}" if place else said)
    return found


def _nearest(place: Sequence[int | str]) -> str:
    kind: type[BaseModel] = StudyConfig
    for part in place[:-1]:
        if isinstance(part, str) and part in kind.model_fields:
            kind = _model_in(kind.model_fields[part].annotation) or kind
    known = list(kind.model_fields)
    found = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(known)}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
