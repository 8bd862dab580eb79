"""Settings: flag over environment over file over default, and errors that name the nearest key."""

from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, field_validator, model_validator

from fednot.setting_flags import POSITIONAL
from fednot.settings import Settings, SettingsError, load, load_or_exit


class Toy(Settings):
    """A toy."""

    name: str = Field(description="who")
    port: int = Field(default=7, description="where, in 100 % of cases")
    loud: bool = Field(default=False, description="noise")
    tags: tuple[str, ...] = Field(default=(), description="marks")


class Choosy(Settings):
    """Says for itself what is wrong, of a field and of all together."""

    name: str = Field(default="c7", description="who")
    loud: bool = Field(default=False, description="noise")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name == "x":
            raise ValueError("x is nobody; name somebody")
        return name

    @model_validator(mode="after")
    def _quiet(self) -> Self:
        if self.loud:
            raise ValueError("give --quiet")
        return self


def read(*arguments: str, **environment: str) -> Toy:
    return load(Toy, program="toy", prefix="TOY_", arguments=arguments, environment=environment)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text('name = "file"\nport = 1\ntags = ["f"]\n')
    found = read("--port", "3", "--config", str(file), TOY_PORT="2", TOY_NAME="env")
    assert found == Toy(name="env", port=3, loud=False, tags=("f",))
    assert read(TOY_CONFIG=str(file)).port == 1
    assert read("--name", "x").port == 7


def test_repeated_and_boolean_flags() -> None:
    found = read("--name=x", "--tags", "a", "--tags", "b", "--loud", TOY_TAGS="ignored")
    assert (found.tags, found.loud) == (("a", "b"), True)
    assert not read("--name=x", "--no-loud", TOY_LOUD="true").loud
    assert read(TOY_NAME="x", TOY_TAGS="a b").tags == ("a", "b")


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    assert read(TOY_NAME_FILE=str(tmp_path / "secret")).name == "hush"
    with pytest.raises(SettingsError, match="TOY_NAME_FILE names a file that cannot be read"):
        read(TOY_NAME_FILE=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="both set"):
        read(TOY_NAME="x", TOY_NAME_FILE=str(tmp_path / "secret"))


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"TOY_PROT is unknown; did you mean port\?"):
        read(TOY_PROT="1")
    with pytest.raises(SettingsError, match=r"--prot is unknown; did you mean port\?"):
        read("--name=x", "--prot=1")
    file = tmp_path / "toy.toml"
    file.write_text("xyz = 1\n")
    with pytest.raises(SettingsError, match="xyz is unknown; known are name, port, loud, tags"):
        read("--config", str(file))


def test_flags_are_not_abbreviated() -> None:
    with pytest.raises(SettingsError, match="--por is unknown"):
        read("--name=x", "--por", "1")


def test_a_bad_value_a_missing_one_and_a_bad_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"port: it must be a whole number, not '.*'"):
        read("--name=x", "--port", "abc")
    with pytest.raises(SettingsError, match="name: Field required"):
        read()
    with pytest.raises(SettingsError, match="cannot be read"):
        read("--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("--name=x",), "name: x is nobody; name somebody"), (("--loud",), "give --quiet")],
)
def test_own_sentences_are_told_as_they_are(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SettingsError) as told:
        load(Choosy, program="toy", prefix="TOY_", arguments=arguments, environment={})
    assert str(told.value) == sentence


def test_other_variables_are_left_alone() -> None:
    assert read(TOY_NAME="x", TOYS="1", PATH="/bin").name == "x"


class Robot(Settings):
    """Shares file and environment with the toy."""

    name: str = Field(description="who")
    part: str = Field(description="which", json_schema_extra=POSITIONAL)


def test_another_programs_keys_are_left_to_it(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text("port = 1\n")

    def robot(*arguments: str, **environment: str) -> Robot:
        return load(
            Robot,
            program="robot",
            prefix="TOY_",
            arguments=["wheel", "--config", str(file), *arguments],
            environment=environment,
            others=Toy,
        )

    found = robot(TOY_NAME="x", TOY_LOUD="yes", TOY_TAGS_FILE="none")
    assert (found.name, found.part) == ("x", "wheel")
    with pytest.raises(SettingsError, match="TOY_PROT is unknown; did you mean port"):
        robot(TOY_PROT="1")
    with pytest.raises(SettingsError, match="--port is unknown; did you mean part"):
        robot("--port=1", TOY_NAME="x")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read("--name=x").port = 3  # type: ignore[misc]


def test_help_and_version_end_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "--version"):
        with pytest.raises(SystemExit) as ended:
            read(flag)
        assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "where, in 100 % of cases (default 7)" in text
    assert "fednot 0." in text


def test_wrong_settings_exit_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["toy", "--port=x", "--name=x"])
    with pytest.raises(SystemExit) as ended:
        load_or_exit(Toy, program="toy", prefix="TOY_")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("toy: port: ")
