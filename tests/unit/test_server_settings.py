"""The server's settings: plaintext rules, where the model comes from, and precedence."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from fednot.settings import SettingsError, load
from server.federation import Defaults
from server.records import RecoveryPolicy, RoundPhase, RoundPolicy
from server.settings import ENVIRONMENT_PREFIX, ServerSettings
from server.state.database import Database, StateError

SOUND = ("--insecure", "--task", "t.py:T")


def read(*arguments: str, **environment: str) -> ServerSettings:
    return load(
        ServerSettings,
        program="fednot-server",
        prefix=ENVIRONMENT_PREFIX,
        arguments=arguments,
        environment=environment,
    )


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.8.9.1:1",
        "localhost:50051",
        "[::1]:50051",
        "127.0.0.1:0",
        "unix:/tmp/socket",
    ],
)
def test_insecure_serves_a_loopback_address(address: str) -> None:
    assert read(*SOUND, "--address", address).address == address


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051",
        "[::]:50051",
        "192.168.1.2:50051",
        "example.org:50051",
        "localhost.example.org:50051",
        "127.0.0.1.example.org:50051",
        ":50051",
        "*:50051",
        "",
    ],
)
def test_insecure_serves_no_other_address(address: str) -> None:
    with pytest.raises(SettingsError, match=r"serves loopback only .* --authority DIR"):
        read(*SOUND, f"--address={address}")
    found = read(*SOUND[1:], "--identity=/id", f"--address={address}")
    assert found.address == address


def test_without_identity_and_insecure_nothing_is_served() -> None:
    told = r"give --authority DIR \(`fednot certs init DIR` makes it\) or --identity FOLDER"
    for flags in ((), ("--revocations=/r.pem",), ("--require-approval",)):
        with pytest.raises(SettingsError, match=told):
            read(*SOUND[1:], *flags)


@pytest.mark.parametrize(
    "flag",
    [
        "--identity=/id",
        "--revocations=/r.pem",
        "--authority=/ca",
        "--require-approval",
        "--enrolment-address=127.0.0.1:50052",
    ],
)
def test_what_needs_identities_goes_not_with_insecure(flag: str) -> None:
    name = flag.partition("=")[0]
    with pytest.raises(SettingsError, match=rf"without identities and {name} needs them"):
        read(*SOUND, flag)


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        (("--aggregation=median",), 3),
        (("--aggregation=trimmed-mean", "--byzantine-clients=2"), 5),
        (("--aggregation=multi-krum",), 5),
        (("--recovery-aggregation=multi-krum", "--byzantine-clients=2"), 7),
    ],
)
def test_a_rule_needs_the_clients_that_it_counts_on(flags: tuple[str, ...], needed: int) -> None:
    name = flags[0].replace("=", " ")
    with pytest.raises(SettingsError, match=rf"{name}.* needs the updates of {needed} clients"):
        read(*SOUND, *flags, f"--min-clients={needed - 1}")
    assert read(*SOUND, *flags, f"--min-clients={needed}")


def test_recovery_rounds_have_the_rule_of_the_others_unless_they_have_their_own() -> None:
    rounds = (RoundPhase.TRAINING, RoundPhase.RECOVERY, RoundPhase.VERIFICATION)
    enough = "--min-clients=5"

    def rules(*flags: str) -> list[str]:
        defaults = read(*SOUND, enough, *flags).defaults()
        return [str(defaults.aggregation_of(phase).rule) for phase in rounds]

    assert rules() == ["mean"] * 3
    assert rules("--aggregation=median") == ["median"] * 3
    assert rules("--recovery-aggregation=multi-krum") == ["mean", "multi-krum", "multi-krum"]
    assert read(*SOUND, enough, "--aggregation=median").defaults().rules == "median"
    differ = read(*SOUND, enough, "--recovery-aggregation=multi-krum").defaults()
    assert differ.rules == "mean, multi-krum in recovery"
    clipped = read(*SOUND, enough, "--clip-norm=2", "--recovery-aggregation=median").defaults()
    assert [clipped.aggregation_of(phase).clip_norm for phase in rounds] == [2.0] * 3
    assert read(*SOUND).defaults().aggregation.clip_norm == math.inf


def test_the_flag_that_served_plaintext_to_everybody_is_gone() -> None:
    with pytest.raises(SettingsError, match="--insecure-any-address is unknown"):
        read(*SOUND, "--insecure-any-address")


def test_an_authority_gives_the_identity_unless_one_is_given() -> None:
    assert read(*SOUND[1:], "--authority=/ca").identity_folder == Path("/ca/server")
    assert read(*SOUND[1:], "--authority=/ca", "--identity=/id").identity_folder == Path("/id")
    assert read(*SOUND).identity_folder is None


def test_enrolment_needs_an_authority() -> None:
    with pytest.raises(SettingsError, match="--enrolment-address needs --authority DIR"):
        read(*SOUND[1:], "--identity=/id", "--enrolment-address=127.0.0.1:50052")
    found = read(*SOUND[1:], "--authority=/ca", "--enrolment-address=127.0.0.1:50052")
    assert found.enrolment_address == "127.0.0.1:50052"


@pytest.mark.parametrize(("expiry", "sound"), [("59", True), ("60", False), ("61", False)])
def test_an_approval_ends_before_the_deletion_that_waits_for_it(expiry: str, sound: bool) -> None:
    flags = (*SOUND[1:], "--identity=/id", "--job-deadline=60", f"--approval-expiry={expiry}")
    assert read(*flags).approval_expiry == float(expiry), "without --require-approval it is unused"
    if sound:
        assert read(*flags, "--require-approval").require_approval
    else:
        with pytest.raises(SettingsError, match=r"--approval-expiry .* below --job-deadline"):
            read(*flags, "--require-approval")


def test_the_model_comes_from_a_task_or_a_file_and_not_from_both() -> None:
    with pytest.raises(SettingsError, match="either --task or --model"):
        read("--insecure")
    with pytest.raises(SettingsError, match="either --task or --model"):
        read(*SOUND, "--model", "m.safetensors")
    assert read("--insecure", "--model", "m.safetensors").model == Path("m.safetensors")
    assert read(*SOUND).model is None


@pytest.mark.parametrize("name", ["model", "identity", "revocations", "authority"])
def test_an_empty_variable_for_a_path_is_no_path(name: str) -> None:
    """Compose files write VARIABLE: ${VARIABLE:-}, which sets it to nothing."""
    found = read(*SOUND, **{f"FEDNOT_SERVER_{name.upper()}": ""})
    assert getattr(found, name) is None


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('insecure = true\ntask = "t.py:T"\nseed = 1\nquorum = 0.1\nmin-clients = 7\n')
    found = read("--seed=3", f"--config={file}", FEDNOT_SERVER_SEED="2", FEDNOT_SERVER_QUORUM="0.2")
    assert (found.seed, found.quorum, found.min_clients) == (3, 0.2, 7)
    assert found.fraction == 1.0


@pytest.mark.parametrize("spelling", ["true", "1", "yes"])
def test_everything_can_come_from_the_environment(spelling: str) -> None:
    found = read(
        FEDNOT_SERVER_INSECURE=spelling,
        FEDNOT_SERVER_TASK="t.py:T",
        FEDNOT_SERVER_TASK_ARG="a=1 b=2",
        FEDNOT_SERVER_STATE_DIR="/state",
        FEDNOT_CLIENT_NAME="another program's",
    )
    assert (found.task_arg, found.state_dir) == (("a=1", "b=2"), Path("/state"))


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--min-client is unknown; did you mean min-clients"):
        read(*SOUND, "--min-client=2")
    with pytest.raises(SettingsError, match=r"FEDNOT_SERVER_QUORUMS is unknown; .* quorum"):
        read(*SOUND, FEDNOT_SERVER_QUORUMS="1")
    file = tmp_path / "server.toml"
    file.write_text("adress = 'x'\n")
    with pytest.raises(SettingsError, match="adress is unknown; did you mean address"):
        read(*SOUND, f"--config={file}")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("fraction", "0"),
        ("fraction", "1.1"),
        ("fraction", "nan"),
        ("quorum", "0"),
        ("quorum", "1.01"),
        ("min-clients", "0"),
        ("round-deadline", "0"),
        ("round-deadline", "inf"),
        ("client-wait", "-1"),
        ("client-wait", "inf"),
        ("round-retries", "-1"),
        ("recovery-min-rounds", "0"),
        ("recovery-max-rounds", "0"),
        ("recovery-tolerance", "1"),
        ("recovery-tolerance", "-0.1"),
        ("plateau-rounds", "0"),
        ("chance-rounds", "0"),
        ("job-deadline", "0"),
        ("job-deadline", "inf"),
        ("approval-expiry", "0"),
        ("approval-expiry", "inf"),
        ("keep-versions", "-1"),
        ("heartbeat-interval", "0"),
        ("upload-slots", "0"),
        ("torch-threads", "0"),
        ("seed", "-1"),
        ("log-level", "loud"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(flag: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{flag}: "):
        read(*SOUND, f"--{flag}={value}")


def test_versions_are_kept_in_the_state_directory_unless_a_place_is_given() -> None:
    assert read(*SOUND, "--state-dir=/s").versions_place == "/s/versions"
    for place in ("/v", "relative/v", "s3://bucket", "s3://bucket/prefix"):
        assert read(*SOUND, "--state-dir=/s", f"--versions={place}").versions_place == place


@pytest.mark.parametrize("place", ["gs://bucket/x", "s3://", "s3:///", "http://host/x"])
def test_a_place_for_versions_that_no_store_is_for_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match="is neither a directory nor s3://BUCKET/PREFIX"):
        read(*SOUND, f"--versions={place}")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_every_log_level_that_the_help_names_is_taken(level: str) -> None:
    assert read(*SOUND, f"--log-level={level}").log_level == level


def test_the_defaults_of_requests_are_the_settings() -> None:
    """Each setting has a value of its own, so that two that were swapped would show."""
    found = read(
        *SOUND[1:],
        "--identity=/id",
        "--require-approval",
        "--approval-expiry=15",
        "--fraction=0.25",
        "--quorum=0.75",
        "--min-clients=4",
        "--round-deadline=11",
        "--client-wait=12",
        "--recovery-min-rounds=5",
        "--recovery-max-rounds=17",
        "--recovery-tolerance=0.03",
        "--plateau-rounds=6",
        "--chance-rounds=7",
        "--job-deadline=16",
        "--round-retries=8",
        "--retry-wait=14",
        "--keep-versions=9",
        "--seed=10",
    )
    recovery = RecoveryPolicy(
        min_rounds=5,
        max_rounds=0,
        tolerance=0.03,
        plateau_rounds=6,
        full_budget=False,
        chance_rounds=7,
        min_clients=4,
        round_deadline=11,
    )
    assert found.defaults() == Defaults(
        rounds=RoundPolicy(0.25, 0.75, 11, 4, 12),
        recovery=recovery,
        recovery_rounds=17,
        job_deadline=16,
        round_retries=8,
        retry_wait=14,
        keep_versions=9,
        seed=10,
        require_approval=True,
        approval_expiry=15,
    )


def test_what_a_plain_server_does_is_what_the_records_say() -> None:
    """The defaults stand in two places, the settings and the records; they are the same."""
    assert read(*SOUND).defaults() == Defaults()


URL = "postgresql+psycopg://fednot:s3cret@db.example/fednot"


def test_the_state_is_in_the_state_directory_or_in_a_database() -> None:
    assert read(*SOUND, "--state-dir", "here").database_place == Path("here/state.sqlite3")
    assert read(*SOUND, "--database", URL).database_place == URL


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///s3cret",
        "postgresql://fednot:s3cret@db/fednot",
        "postgresql+psycopg://fednot:s3cret@db",
        "s3cret",
        "postgresql+psycopg://fednot:s3cret@db:port/fednot",
    ],
)
def test_another_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match=r"database: write postgresql\+psycopg://") as told:
        read(*SOUND, "--database", url)
    assert "s3cret" not in str(told.value)


def test_the_password_of_the_database_is_not_shown() -> None:
    assert "s3cret" not in repr(read(*SOUND, "--database", URL))


def test_the_database_may_be_a_secret_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(URL + "\n")
    found = load(
        ServerSettings,
        program="fednot-server",
        prefix=ENVIRONMENT_PREFIX,
        arguments=SOUND,
        environment={"FEDNOT_SERVER_DATABASE_FILE": str(tmp_path / "url")},
    )
    assert found.database == URL


def test_a_missing_driver_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StateError, match=r"pip install 'fednot\[postgres\]'"):
        Database(URL)
