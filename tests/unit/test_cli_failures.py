"""What `fednot` says of a refusal: when to come again, where waiting helps."""

from __future__ import annotations

import pytest

from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import of_refusal
from fednot.errors import FednotError, Reason


@pytest.mark.parametrize(("wait", "told"), [(29.2, 30), (0.2, 1)])
def test_it_tells_when_to_come_again(wait: float, told: int) -> None:
    refusal = FednotError(Reason.TOO_MANY_CONNECTIONS, "too many", retry_after=wait)
    found = of_refusal(refusal)
    assert found.remedy == f"{refusal.remedy} Come again in {told} s."
    assert found.code is ExitCode.REFUSED


def test_without_a_time_the_remedy_is_all() -> None:
    refusal = FednotError(Reason.WRONG_ROLE, "no")
    assert of_refusal(refusal).remedy == refusal.remedy


def test_a_server_that_stops_is_tried_again_by_the_command_itself() -> None:
    refusal = FednotError(Reason.SHUTTING_DOWN, "it stops", retry_after=1.0)
    assert of_refusal(refusal).remedy == refusal.remedy
