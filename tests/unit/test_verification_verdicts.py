"""The verdicts that figures are given."""

from __future__ import annotations

import pytest

from server.records import Finding, Thresholds, Verdict
from server.verification.verdicts import GONE, judge, judge_depth, rank

LIMITS = Thresholds(auc_margin=0.1, trigger_margin=0.2)
GOOD = {"auc": 0.5, "auc_low": 0.48, "auc_high": 0.52, "trigger_effect": 0.0}
RECOVERED = Finding("recovered", 0, GOOD)


def figures(low: float, high: float, effect: float | None = None) -> dict[str, float]:
    found = {"auc": (low + high) / 2, "auc_low": low, "auc_high": high}
    found |= {"samples_forgotten": 40.0, "samples_unseen": 60.0}
    return found if effect is None else found | {"trigger_effect": effect}


@pytest.mark.parametrize(
    ("low", "high", "effect", "verdict"),
    [
        (0.45, 0.55, None, Verdict.PASS),
        (0.41, 0.59, None, Verdict.PASS),
        (0.40, 0.60, None, Verdict.PASS),
        (0.39, 0.55, None, Verdict.FAIL),
        (0.55, 0.61, None, Verdict.FAIL),
        (0.10, 0.14, None, Verdict.FAIL),
        (0.90, 0.95, None, Verdict.FAIL),
        (0.30, 0.70, None, Verdict.NOT_POSSIBLE),
        (0.70, 0.95, None, Verdict.NOT_POSSIBLE),
        (0.45, 0.55, 0.20, Verdict.PASS),
        (0.45, 0.55, 0.21, Verdict.FAIL),
        (0.45, 0.55, -0.5, Verdict.PASS),
        (0.30, 0.70, 0.0, Verdict.NOT_POSSIBLE),
        (0.30, 0.70, 0.9, Verdict.FAIL),
        (0.90, 0.95, 0.0, Verdict.FAIL),
    ],
)
def test_one_model(low: float, high: float, effect: float | None, verdict: Verdict) -> None:
    assert judge(figures(low, high, effect), LIMITS).verdict is verdict


def test_reasons_tell_the_figures() -> None:
    assert judge(figures(0.45, 0.55, 0.01), LIMITS).reason == (
        "the membership AUC is 0.50 (95 % 0.45 to 0.55, 40 forgotten and 60 unseen samples), within"
        " 0.5 ± 0.1; the trigger raises the share of its class by 0.01, no more than 0.2."
    )
    assert judge(figures(0.3, 0.7), LIMITS).reason == (
        "the membership AUC is 0.50 (95 % 0.30 to 0.70, 40 forgotten and 60 unseen samples), an "
        "interval wider than 0.2: too few samples."
    )


def test_a_trigger_alone_decides_where_there_is_no_auc() -> None:
    passed = judge({"trigger_effect": 0.0}, LIMITS, missing=GONE)
    assert passed.verdict is Verdict.PASS
    assert GONE in passed.reason
    assert judge({"trigger_effect": 0.5}, LIMITS, missing=GONE).verdict is Verdict.FAIL


def test_without_anything_there_is_no_verdict() -> None:
    found = judge({}, LIMITS, missing=GONE)
    assert (found.verdict, found.reason) == (Verdict.NOT_POSSIBLE, f"{GONE}.")
    few = judge({"samples_forgotten": 3.0, "samples_unseen": 50.0}, LIMITS)
    assert few.verdict is Verdict.NOT_POSSIBLE
    assert "3 forgotten and 50 unseen samples, and 10 of each are needed" in few.reason


def test_depth_is_as_bad_as_the_worst_model() -> None:
    good = Finding("undone: a", 0, figures(0.45, 0.55, 0.0))
    wide = Finding("undone: a", 2, figures(0.3, 0.7, 0.0))
    bad = Finding("undone: b", 2, figures(0.45, 0.55, 0.92))
    assert judge_depth(RECOVERED, [good, wide, bad], LIMITS).verdict is Verdict.FAIL
    assert judge_depth(RECOVERED, [good, wide, bad], LIMITS).reason.startswith(
        "undone: b, after 2 rounds: "
    )
    assert judge_depth(RECOVERED, [good, wide], LIMITS).verdict is Verdict.NOT_POSSIBLE
    passed = judge_depth(RECOVERED, [good, good], LIMITS, note="Not negated alone: c.")
    assert passed.verdict is Verdict.PASS
    assert passed.reason.startswith("each of 2 models of the undo attack passes")
    assert passed.reason.endswith("Not negated alone: c.")


def test_what_could_not_be_undone_cannot_pass() -> None:
    good = Finding("undone: a", 0, figures(0.45, 0.55))
    bad = Finding("undone: a", 0, figures(0.9, 0.95))
    assert judge_depth(RECOVERED, [], LIMITS).verdict is Verdict.NOT_POSSIBLE
    assert judge_depth(RECOVERED, [good], LIMITS, gap="no rounds").verdict is Verdict.NOT_POSSIBLE
    assert judge_depth(RECOVERED, [bad], LIMITS, gap="no rounds").verdict is Verdict.FAIL


def test_depth_is_never_better_than_behaviour() -> None:
    """Fine-tuning: the backdoor stands, and what is undone in it is a broken model without one."""
    stands = Finding("recovered", 0, figures(0.45, 0.55, 0.96))
    found = judge_depth(stands, [Finding("undone: a", 0, GOOD)], LIMITS)
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("recovered: the trigger raises")


def test_verdicts_have_an_order() -> None:
    found = [judge(figures(*ends), LIMITS) for ends in ((0.9, 0.95), (0.3, 0.7), (0.45, 0.55))]
    assert [rank(judged) for judged in found] == [0, 1, 2]
