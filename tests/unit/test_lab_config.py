"""A study's TOML file: what is read, and what a mistake in it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.lab_study import STUDY, study

from lab.config import ConfigError, read

CONFIGS = Path(__file__).parents[2] / "lab" / "configs"


def told(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as found:
        read(study(folder, text))
    return str(found.value)


def test_a_study_is_read_whole(tmp_path: Path) -> None:
    config = read(study(tmp_path))
    assert [method.shown for method in config.method] == ["retrain", "NoT"]
    assert (config.partition[0].name, config.study.seeds) == ("iid", (0,))
    assert (config.training.clients, config.measure.deletions) == (3, 1)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_that_comes_along_is_read(path: Path) -> None:
    assert read(path).study.name == path.stem


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rounds = 2", "round = 2", "training.round is unknown; did you mean rounds?"),
        ("[recovery]", "[recovry]", "recovry is unknown; did you mean recovery?"),
        ("train = 120", "tran = 120", "dataset.0.tran is unknown; did you mean train?"),
        ("clients = 3", "clients = 1", "training.clients: Input should be greater than"),
        ('name = "not"', 'name = "nat"', "method.1.name: there is no method 'nat'; there are not"),
        ('name = "not"', 'name = "pgd:2"', "pgd takes no number"),
        ("examples = 50", "deletions = 3", "leaves none of the 3 clients"),
        ('label = "NoT"', 'label = "retrain"', "two of [[method]] have the same label"),
        ('name = "retrain"', 'name = "not"', "two of [[method]] are named not; give each an `id`"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert old in STUDY
    assert sentence in told(tmp_path, STUDY.replace(old, new))


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    assert "study.toml cannot be read" in told(tmp_path, "[study")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.toml")


def test_variants_of_a_method_have_ids_of_their_own(tmp_path: Path) -> None:
    more = '[[method]]\nname = "not"\nlayers = "index=1,2"\nlabel = "b"\n'
    more += '[[method]]\nname = "noise:0.5"\nlabel = "c"\n'
    config = read(study(tmp_path, more=more))
    assert [m.key for m in config.method] == ["retrain", "not", "not_index_1_2", "noise_0_5"]
