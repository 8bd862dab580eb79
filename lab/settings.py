"""What one federation of the lab is made of, as a value that a file or a command line can hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints


@dataclass(frozen=True)
class Setting:
    """Data, partition, model, training and backdoors of a federation; the seed decides every draw.

    `folder` is where the data is; `train` and `test` samples are drawn (None: all). `alpha` and
    `classes` count for the partitions that have them. `poisoned` names the clients with a backdoor,
    each with a trigger and a class of its own in `poisoned_share` of its images. `augment` is "",
    "crop" or "crop-flip". Rounds' accuracies are measured on at most `scored` samples of each kind.
    """

    dataset: str = "digits"
    folder: Path | None = None
    train: int | None = None
    test: int | None = None
    size: int = 32
    partition: str = "iid"
    clients: int = 5
    alpha: float = 0.5
    classes: int = 2
    minimum: int = 10
    model: str = "cnn-digits"
    batch_size: int = 32
    local_epochs: int = 1
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    augment: str = ""
    poisoned: tuple[str, ...] = ()
    poisoned_share: float = 0.8
    scored: int = 2000
    seed: int = 0

    def options(self) -> dict[str, float]:
        """The options of its partition."""
        own: dict[str, dict[str, float]] = {
            "dirichlet": {"alpha": self.alpha},
            "pathological": {"classes": self.classes},
        }
        return {"minimum": self.minimum, **own.get(self.partition, {})}

    def hyper_parameters(self) -> dict[str, float]:
        """What the training loop reads off the Task."""
        return {
            "batch_size": self.batch_size,
            "local_epochs": self.local_epochs,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }

    def arguments(self) -> list[str]:
        """KEY=VALUE for each field that is not its default: what `--task-arg` takes."""
        return [
            f"{field.name}={_written(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]


KINDS: Final = get_type_hints(Setting)


def setting_of(words: dict[str, str]) -> Setting:
    """A setting of words such as {"clients": "10", "poisoned": "client-0,client-1"}.

    Raises ValueError for a field that does not exist or a word that is not of its type.
    """
    if unknown := sorted(set(words) - set(KINDS)):
        raise ValueError(f"the lab has no {', '.join(unknown)}; it has {', '.join(sorted(KINDS))}")
    return Setting(**{name: _read(name, word) for name, word in words.items()})


def _written(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def _read(name: str, word: str) -> Any:
    if name == "poisoned":
        return tuple(filter(None, word.split(",")))
    kinds = get_args(KINDS[name]) or (KINDS[name],)
    if not word and type(None) in kinds:
        return None
    try:
        return kinds[0](word)
    except ValueError as error:
        raise ValueError(f"{name}={word} is no {kinds[0].__name__}") from error
