"""Pages and policies: defaults for what is unset, and each bad field refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from fednot.errors import FednotError, Reason
from fednot.v1 import deletion_pb2, operator_pb2
from server.records import RecoveryPolicy, RoundPolicy
from server.services.paging import next_token, page_of
from server.services.policies import recovery_policy, round_policy, training_config

NAN, INF = float("nan"), float("inf")
MONTH = 30 * 24 * 3600


def refused(call: Callable[[], object]) -> str:
    """The message of an INVALID_REQUEST."""
    with pytest.raises(FednotError) as refusal:
        call()
    assert refusal.value.reason is Reason.INVALID_REQUEST
    return refusal.value.message


def test_the_first_page_begins_at_the_newest_with_a_hundred_rows() -> None:
    assert page_of(0, "") == (0, 100)


def test_a_page_is_as_long_as_asked_up_to_a_thousand() -> None:
    assert [page_of(size, "7") for size in (1, 1000, 1001, 2**32 - 1)] == [
        (7, 1),
        (7, 1000),
        (7, 1000),
        (7, 1000),
    ]


@pytest.mark.parametrize("token", ["x", "-1", "1.5", " 1", "1 OR 1=1", "9" * 19, "²"])
def test_a_token_that_no_page_gave_is_refused(token: str) -> None:
    """A key fits in 64 bits, so 19 digits and more are none."""
    assert refused(lambda: page_of(0, token)).startswith("page_token: ")


def test_a_full_page_names_the_next_and_a_short_one_does_not() -> None:
    assert next_token(10, 10, 41) == "41"
    assert next_token(9, 10, 41) == ""


def test_a_full_page_that_ends_with_the_first_row_is_the_last() -> None:
    assert next_token(10, 10, 1) == ""


def test_tokens_lead_through_every_row_once() -> None:
    """25 rows by 10: pages of 10, 10 and 5, and no row twice."""
    rows, shown, token, pages = range(25, 0, -1), [], "", 0
    while True:
        before, size = page_of(10, token)
        page = [row for row in rows if not before or row < before][:size]
        shown += page
        pages += 1
        token = next_token(len(page), size, page[-1])
        if not token:
            break
    assert (shown, pages) == (list(rows), 3)


ROUNDS = RoundPolicy(fraction=0.5, quorum=0.25, deadline=30, min_clients=3, client_wait=40)


def test_a_round_policy_of_nothing_is_the_servers() -> None:
    assert round_policy(operator_pb2.RoundPolicy(), ROUNDS) == ROUNDS


def test_every_field_of_a_round_policy_is_taken() -> None:
    message = operator_pb2.RoundPolicy(
        fraction=1.0,
        quorum=0.75,
        deadline=Duration(seconds=1, nanos=500_000_000),
        min_clients=1,
        client_wait=Duration(seconds=0),
    )
    assert round_policy(message, ROUNDS) == RoundPolicy(1.0, 0.75, 1.5, 1, 0.0)


BAD_ROUNDS: list[tuple[str, Any]] = [
    *(("fraction", value) for value in (0.0, -0.5, 1.5, NAN, INF)),
    *(("quorum", value) for value in (0.0, -0.5, 1.5, NAN, INF)),
    *(("deadline", Duration(seconds=s)) for s in (0, -1, MONTH + 1, 10**18)),
    *(("client_wait", Duration(seconds=s)) for s in (-1, MONTH + 1, 10**18)),
    ("min_clients", 0),
]


@pytest.mark.parametrize(("field", "value"), BAD_ROUNDS)
def test_a_bad_field_of_a_round_policy_is_refused_by_name(field: str, value: Any) -> None:
    message = operator_pb2.RoundPolicy(**{field: value})
    assert refused(lambda: round_policy(message, ROUNDS)).startswith(f"policy.{field}: must be ")


@pytest.mark.parametrize("seconds", [1, MONTH])
def test_the_ends_of_a_rounds_times_are_taken(seconds: int) -> None:
    message = operator_pb2.RoundPolicy(
        deadline=Duration(seconds=seconds), client_wait=Duration(seconds=seconds)
    )
    found = round_policy(message, ROUNDS)
    assert (found.deadline, found.client_wait) == (seconds, seconds)


RECOVERY = RecoveryPolicy(
    min_rounds=3,
    max_rounds=0,
    tolerance=0.02,
    plateau_rounds=6,
    full_budget=True,
    chance_rounds=7,
    min_clients=4,
    round_deadline=50,
)


def test_a_recovery_policy_of_nothing_is_the_servers() -> None:
    assert recovery_policy(deletion_pb2.RecoveryPolicy(), RECOVERY) == RECOVERY


def test_every_field_of_a_recovery_policy_is_taken() -> None:
    message = deletion_pb2.RecoveryPolicy(
        min_rounds=1,
        max_rounds=2,
        tolerance=0.0,
        plateau_rounds=3,
        full_budget=False,
        chance_rounds=4,
        min_clients=5,
        round_deadline=Duration(nanos=250_000_000),
    )
    assert recovery_policy(message, RECOVERY) == RecoveryPolicy(1, 2, 0.0, 3, False, 4, 5, 0.25)


BAD_RECOVERY: list[tuple[str, Any]] = [
    ("min_rounds", 0),
    *(("max_rounds", value) for value in (0, 1_000_001)),
    *(("tolerance", value) for value in (-0.01, 1.0, NAN, INF)),
    ("plateau_rounds", 0),
    ("chance_rounds", 0),
    ("min_clients", 0),
    *(("round_deadline", Duration(seconds=s)) for s in (0, -1, MONTH + 1, 10**18)),
]


@pytest.mark.parametrize(("field", "value"), BAD_RECOVERY)
def test_a_bad_field_of_a_recovery_policy_is_refused_by_name(field: str, value: Any) -> None:
    message = deletion_pb2.RecoveryPolicy(**{field: value})
    refusal = refused(lambda: recovery_policy(message, RECOVERY))
    assert refusal.startswith(f"recovery.{field}: must be ")


def test_every_field_of_the_policies_has_a_bad_value_in_these_tests() -> None:
    """Except full_budget, of which no value is bad."""
    rounds = {field for field, _ in BAD_ROUNDS}
    recovery = {field for field, _ in BAD_RECOVERY} | {"full_budget"}
    assert rounds == set(operator_pb2.RoundPolicy.DESCRIPTOR.fields_by_name)
    assert recovery == set(deletion_pb2.RecoveryPolicy.DESCRIPTOR.fields_by_name)


def test_least_and_most_rounds_that_contradict_each_other_are_refused() -> None:
    message = deletion_pb2.RecoveryPolicy(min_rounds=5, max_rounds=4)
    assert refused(lambda: recovery_policy(message, RECOVERY)) == (
        "recovery.min_rounds: must be at most max_rounds"
    )


def test_a_budget_below_the_servers_least_number_of_rounds_is_taken() -> None:
    """The caller said nothing of min_rounds, so the budget that it did say wins."""
    found = recovery_policy(deletion_pb2.RecoveryPolicy(max_rounds=1), RECOVERY)
    assert (found.min_rounds, found.max_rounds) == (3, 1)


def config_of(**values: Any) -> Struct:
    message = Struct()
    message.update(values)
    return message


def test_overrides_of_hyper_parameters_are_numbers() -> None:
    assert training_config(config_of(learning_rate=0.5, local_epochs=2)) == {
        "learning_rate": 0.5,
        "local_epochs": 2.0,
    }
    assert training_config(Struct()) == {}


@pytest.mark.parametrize("value", [True, None, "0.1", [1.0], {"a": 1.0}, NAN, INF, -INF])
def test_an_override_that_is_no_finite_number_is_refused_by_name(value: Any) -> None:
    message = config_of(batch_size=2, learning_rate=value)
    assert refused(lambda: training_config(message)) == (
        "config.learning_rate: must be a finite number"
    )
