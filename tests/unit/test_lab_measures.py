"""Figures over seeds, derived by hand from made results."""

from __future__ import annotations

import pytest
from support.lab_results import result, rounds, scores, verified

from lab.report import costs, depth
from lab.report.claims import claims
from lab.report.frontier import cheapest_deep, frontier
from lab.report.groups import Group, Study, study_of
from lab.report.measures import Measured, before, measure
from lab.results import Expected, Folder, Result


def studied(*found: Result, expected: tuple[Expected, ...] = ()) -> Study:
    return study_of(Folder(found, expected))


def group_of(*found: Result) -> Group:
    (group,) = studied(*found).groups
    return group


def measured(*found: Result, margin: float = 0.01) -> dict[str, Measured]:
    group = group_of(*found)
    return {row.name: measure(group, row, margin) for row in group.rows}


def test_gaps_are_taken_within_a_seed() -> None:
    """Seed 0: gaps 0, .2, 0, 0; seed 1: 0, .4, .04, 0. Averages .05 and .11: mean .08, deviation
    .06 / sqrt 2. The retrained models differ by .3 in forget, which counts for nothing.
    """
    found = measured(
        result("retrain", 0, scores=scores(0.9, 0.5, 0.7, 0.5)),
        result("retrain", 1, scores=scores(0.9, 0.2, 0.7, 0.5)),
        result("NoT", 0, method="not", scores=scores(0.9, 0.7, 0.7, 0.5)),
        result("NoT", 1, method="not", scores=scores(0.9, 0.6, 0.66, 0.5)),
    )["NoT"]
    assert found.seeds == (0, 1)
    assert found.average_gap is not None
    assert found.average_gap.mean == pytest.approx(0.08)
    assert found.average_gap.deviation == pytest.approx(0.06 / 2**0.5)
    assert found.gaps["forget"].mean == pytest.approx(0.3)
    assert found.scores["forget"].mean == pytest.approx(0.65)


def test_retraining_has_no_gap_and_costs_itself() -> None:
    found = measured(
        result("retrain", scores=scores(0.9, 0.5, 0.7, 0.5), rounds=rounds(0.5, 0.695, 0.7))
    )
    mine = found["retrain"]
    assert mine.average_gap is not None
    assert mine.average_gap.mean == 0.0
    assert mine.to_target["rounds"].mean == 2.0
    assert mine.ratios["bytes"].mean == 1.0


def test_costs_to_the_same_test_accuracy() -> None:
    """Retraining ends at .70, so the mark is .69: it gets there in round 4, at 400 bytes.

    NoT gets there in round 2, at 2 x 60 bytes: .3 of retraining's; its seconds are 4 of 8.
    """
    found = measured(
        result("retrain", scores=scores(0.9, 0.5, 0.7, 0.5), rounds=rounds(0.2, 0.4, 0.6, 0.69)),
        result("NoT", method="not", rounds=rounds(0.6, 0.69, nbytes=60)),
    )["NoT"]
    assert found.reached == 1
    assert found.always_reached
    assert {name: spread.mean for name, spread in found.to_target.items()} == {
        "rounds": 2.0,
        "bytes": 120.0,
        "flops": 240.0,
        "seconds": 4.0,
    }
    assert found.ratios["rounds"].mean == 0.5
    assert found.ratios["bytes"].mean == pytest.approx(0.3)
    assert found.ratios["seconds"].mean == 0.5


def test_the_gap_at_the_mark_is_taken_between_rounds() -> None:
    """Round 2 has .9, .5, .7; retraining's last round .8, .35, .7: (.1 + .15 + 0) / 3.

    The scores, of all samples, are further apart, and NoT's last round as well.
    """
    last = {"number": 2, "phase": "recovery", "retain": 0.8, "forget": 0.35, "test": 0.7}
    mark = {"number": 2, "phase": "recovery", "retain": 0.9, "forget": 0.5, "test": 0.7}
    later = {"number": 3, "phase": "recovery", "retain": 0.99, "forget": 0.9, "test": 0.7}
    found = measured(
        result("retrain", scores=scores(0.5, 0.1, 0.7, 0.5), rounds=[*rounds(0.1), last]),
        result("NoT", method="not", rounds=[*rounds(0.1), mark, later]),
        result("bare", rounds=rounds(0.7)),
    )
    assert found["NoT"].gap_at_target is not None
    assert found["NoT"].gap_at_target.mean == pytest.approx(0.25 / 3)
    assert found["bare"].reached == 1
    assert found["bare"].gap_at_target is None


def test_a_method_that_has_yet_to_forget_is_not_there_yet() -> None:
    """Its rounds of unlearning are as good on test data as ever, and do not count as arrived."""
    retrain = result("retrain", scores=scores(0.9, 0.5, 0.7, 0.5))
    both = [
        *rounds(0.72, 0.71, phase="unlearning"),
        {"number": 3, "phase": "recovery", "test": 0.3},
        {"number": 4, "phase": "recovery", "test": 0.7},
    ]
    found = result("mode", rounds=both)
    arrived = costs.reached(found, retrain, 0.01)
    assert arrived is not None
    assert costs.paid(found, arrived) == {"rounds": 4.0}


def test_a_method_without_recovery_is_there_at_its_end_or_not_at_all() -> None:
    retrain = result("retrain", scores=scores(0.9, 0.5, 0.7, 0.5))
    early = result("fukd", rounds=rounds(0.7, 0.6, phase="unlearning"))
    late = result("fukd", rounds=rounds(0.6, 0.7, phase="unlearning"))
    assert costs.reached(early, retrain, 0.01) is None
    arrived = costs.reached(late, retrain, 0.01)
    assert arrived is not None
    assert arrived.number == 2


def test_a_seed_that_never_arrives_is_told() -> None:
    found = measured(
        result("retrain", 0, scores=scores(0.9, 0.5, 0.7, 0.5), rounds=rounds(0.7)),
        result("retrain", 1, scores=scores(0.9, 0.5, 0.7, 0.5), rounds=rounds(0.7)),
        result("NoT", 0, method="not", rounds=rounds(0.7)),
        result("NoT", 1, method="not", rounds=rounds(0.6)),
    )["NoT"]
    assert found.reached == 1
    assert not found.always_reached
    assert found.to_target["rounds"].values == (1.0,)


def test_without_a_retraining_of_the_seed_there_is_no_gap() -> None:
    found = measured(
        result("retrain", 0), result("NoT", 0, method="not"), result("NoT", 1, method="not")
    )["NoT"]
    assert found.seeds == (0, 1)
    assert found.average_gap is not None
    assert found.average_gap.values == (0.0,)


def test_what_failed_or_is_missing_is_told() -> None:
    study = studied(
        result("retrain", 0),
        result("retrain", 1),
        result("NoT", 0, method="not", failure="out of memory"),
        result("PGD", 1, method="pgd"),
    )
    told = {(one.kind, one.cell, one.reason) for one in study.troubles}
    assert told == {
        ("failed", "cifar10-cnn-iid-not-s0", "out of memory"),
        ("missing", "cifar10/cnn/iid, NoT, seed 1", "no result; run the study again"),
        ("missing", "cifar10/cnn/iid, PGD, seed 0", "no result; run the study again"),
    }
    (group,) = study.groups
    row = measure(group, group.rows[1], 0.01)
    assert (row.name, row.seeds, row.failed, row.missing) == ("NoT", (), (0,), (1,))


def test_what_was_expected_and_never_ran_has_a_row() -> None:
    cell = result("FedEraser", 3, method="fed-eraser", dataset="cifar100").cell
    expected = (Expected(id="x", label="FedEraser", cell=cell),)
    study = studied(result("retrain"), expected=expected)
    assert [group.title for group in study.groups] == [
        "cifar100 / cnn / iid",
        "cifar10 / cnn / iid",
    ]
    assert [one.cell for one in study.troubles] == ["cifar100/cnn/iid, FedEraser, seed 3"]


def test_two_cells_of_one_label_and_seed_are_told() -> None:
    first, second = result("retrain"), result("retrain")
    study = studied(first, second.model_copy(update={"id": "other"}))
    assert [(one.kind, one.cell) for one in study.troubles] == [("double", "other")]
    assert study.groups[0].reference[0].id == first.id


def test_a_group_for_each_dataset_model_and_partition() -> None:
    study = studied(
        result("retrain"),
        result("retrain", dataset="digits"),
        result("retrain", model="vit"),
        result("retrain", partition="dirichlet_0_1"),
        result("NoT", method="not"),
    )
    assert [len(group.rows) for group in study.groups] == [2, 1, 1, 1]
    assert not study.troubles


def test_retraining_stands_first_and_is_the_reference_under_its_own_name() -> None:
    group = group_of(
        result("NoT", method="not"),
        result("retrain, momentum", method="retrain"),
        result("fine-tune"),
        result("Retrain", method="retrain"),
        result("PGD", method="pgd"),
    )
    names = [row.name for row in group.rows]
    assert names == ["retrain, momentum", "Retrain", "fine-tune", "NoT", "PGD"]
    assert group.reference[0].name == "Retrain"


def test_the_worst_that_undoing_brings_back() -> None:
    found = depth.worst(result("NoT", verification=verified("fail", 0.2, 0.9, 0.5)), None)
    assert found is not None
    assert (found.value, found.kind, found.rounds) == (0.9, "trigger", 1)


def test_a_model_that_never_forgot_is_as_bad_as_it_stands() -> None:
    """Undoing breaks it, so that its trigger no longer works; that is no merit."""
    stands = {"name": "recovered", "figures": {"trigger_effect": 0.95}}
    undone = verified("fail", 0.01)
    undone["findings"] = [stands, *undone["findings"][1:]]
    found = depth.worst(result("fine-tune", verification=undone), None)
    assert found is not None
    assert (found.value, found.model) == (0.95, "recovered")
    alone = {**undone, "findings": [stands]}
    assert depth.worst(result("fine-tune", verification=alone), None) is None


def test_without_a_trigger_the_forgotten_samples_tell() -> None:
    """Forgotten samples answered at .8 undone, .6 by retraining: .2; better than it is no less."""
    retrain = result("retrain", scores=scores(0.9, 0.6, 0.7, 0.5))
    undone = verified("fail", 0.4, 0.8, name="accuracy_forgotten")
    found = depth.worst(result("NoT", verification=undone), retrain)
    assert found is not None
    assert (found.value, found.kind) == (pytest.approx(0.2), "forget")
    less = verified("pass", 0.4, name="accuracy_forgotten")
    nothing = depth.worst(result("NoT", verification=less), retrain)
    assert nothing is not None
    assert nothing.value == 0.0
    assert depth.worst(result("NoT", verification=undone), None) is None


def test_verdicts_pass_only_in_every_seed() -> None:
    found = measured(
        result("a", 0, verification=verified("pass", 0.0)),
        result("a", 1, verification=verified("fail", 0.5)),
        result("b", 0, verification=verified("pass", 0.0)),
        result("b", 1, verification=verified("pass", 0.0)),
        result("c", 0, verification=verified("pass", 0.0, behaviour="not-possible")),
        result("c", 1, verification=verified("pass", 0.0)),
        result("d", 0),
    )
    assert found["a"].depth == {"pass": 1, "fail": 1}
    assert [found[name].passes for name in "abcd"] == [False, True, None, None]
    assert found["a"].worst_undone is not None
    assert found["a"].worst_undone.mean == 0.25


def test_relearning_against_the_retraining_of_the_seed() -> None:
    """Means .6 and .4: an advantage of .2. One that is slower than retraining has none."""
    found = measured(
        result("retrain", relearning={"accuracies": [0.2, 0.6]}),
        result("NoT", method="not", relearning={"accuracies": [0.4, 0.8]}),
        result("PGD", method="pgd", relearning={"accuracies": [0.0, 0.5]}),
    )
    assert found["NoT"].relearning["advantage"].mean == pytest.approx(0.2)
    assert found["NoT"].relearning["first"].mean == 0.4
    assert found["PGD"].relearning["advantage"].mean == 0.0


def test_deletions_in_a_row() -> None:
    """After the second: its own backdoor .1, the first one's back at .8, the third's mean .9."""
    steps = [
        {"client": "a", "backdoors": {"a": 0.0, "b": 1.0, "c": 0.8}, "method": "not"},
        {
            "client": "b",
            "backdoors": {"a": 0.8, "b": 0.1, "c": 0.9},
            "method": "not",
            "tensors": ["conv2.weight"],
            "scores": scores(0.9, 0.5, 0.7, 0.5),
        },
    ]
    first, second = measured(result("NoT", method="not", deletions=steps))["NoT"].deletions
    assert first.own is not None
    assert first.own.mean == 0.0
    assert first.earlier is None
    assert first.others is not None
    assert first.others.mean == pytest.approx(0.9)
    assert [s.mean for s in (second.own, second.earlier, second.others) if s] == [0.1, 0.8, 0.9]
    assert second.methods == ("not: conv2.weight",)
    assert second.scores["test"].mean == 0.7


def test_the_models_before_the_deletion_count_once_a_seed() -> None:
    group = group_of(
        result("retrain", 0, before=scores(0.9, 0.9, 0.7, 0.6)),
        result("NoT", 0, method="not", before=scores(0.9, 0.9, 0.7, 0.6)),
        result("retrain", 1, before=scores(0.7, 0.9, 0.7, 0.6)),
    )
    assert before(group)["retain"].values == (0.9, 0.7)


def compared() -> dict[str, Measured]:
    """Rounds to .69 and worst effect: retrain 4, 0; NoT 1, .9; deep 2, .1; slow 3, .2; lost."""
    retrain = scores(0.9, 0.5, 0.7, 0.5)
    return measured(
        result(
            "retrain",
            scores=retrain,
            rounds=rounds(0.1, 0.2, 0.3, 0.7),
            verification=verified("pass", 0.0),
        ),
        result("NoT", method="not", rounds=rounds(0.7), verification=verified("fail", 0.9)),
        result("deep", method="not", rounds=rounds(0.1, 0.7), verification=verified("pass", 0.1)),
        result("slow", rounds=rounds(0.1, 0.2, 0.7), verification=verified("pass", 0.2)),
        result("lost", rounds=rounds(0.1), verification=verified("pass", 0.0)),
        result("plain", rounds=rounds(0.7)),
    )


def test_the_frontier_and_the_cheapest_that_passes() -> None:
    points = frontier(list(compared().values()))
    told = [(p.name, p.rounds, p.effect, p.best) for p in points if not p.why_not]
    assert told == [
        ("NoT", 1.0, 0.9, True),
        ("deep", 2.0, 0.1, True),
        ("slow", 3.0, 0.2, False),
        ("retrain", 4.0, 0.0, True),
    ]
    without = {p.name: p.why_not for p in points if p.why_not}
    assert without["lost"] == "as good as retraining on test data in only 0 of 1 seeds"
    assert "no undo attack" in without["plain"]
    found = cheapest_deep(points)
    assert found is not None
    assert (found.name, found.ratio) == ("deep", 0.5)


def test_nothing_passes_is_told() -> None:
    found = [one for one in compared().values() if one.name in ("retrain", "NoT")]
    points = frontier(found)
    assert cheapest_deep(points) is None
    (told,) = [one for one in claims(found, points) if one.startswith("No variant passes")]
    assert told.endswith("Retraining: pass.")


def test_the_cheapest_is_told_with_its_share() -> None:
    found = list(compared().values())
    told = claims(found, frontier(found))
    wanted = (
        "The cheapest that passes both verdicts is deep, 2.0 rounds, 0.50 of retraining's: within"
    )
    assert any(sentence.startswith(wanted) for sentence in told)


def seeded(name: str, *forgets: float) -> list[Result]:
    """A forget accuracy for each seed; retraining's is .5, so each gap is a quarter of the rest."""
    return [
        result(name, seed, scores=scores(0.9, forget, 0.7, 0.5), rounds=rounds(0.7))
        for seed, forget in enumerate(forgets)
    ]


def test_whether_not_forgets_better_than_fine_tuning() -> None:
    """Gaps of NoT .01, .02, of fine-tuning .05, .06: apart by .04, deviations .014 together."""
    retrain = seeded("retrain", 0.5, 0.5)
    tuned = seeded("fine-tune", 0.7, 0.74)
    clear = list(measured(*retrain, *tuned, *seeded("not", 0.54, 0.58)).values())
    told = claims(clear, ())[0]
    assert "not has an average gap of 1.50 ± 0.71 against fine-tuning's 5.50 ± 0.71" in told
    assert "5.50 ± 0.71: smaller, beyond the deviations." in told
    assert "The largest of the four: forget, 6.00, of fine-tuning forget, 22.00." in told
    near = list(measured(*retrain, *tuned, *seeded("not", 0.5, 0.9)).values())
    assert ": smaller, but within the deviations." in claims(near, ())[0]
    worse = list(measured(*retrain, *tuned, *seeded("not", 0.9, 0.94)).values())
    assert ": not smaller, beyond the deviations." in claims(worse, ())[0]
    single = list(measured(retrain[0], tuned[0], *seeded("not", 0.54)).values())
    assert ": smaller, by a single seed" in claims(single, ())[0]


def test_whether_not_costs_little_enough() -> None:
    retrain = result("retrain", scores=scores(0.9, 0.5, 0.7, 0.5), rounds=rounds(0.1, 0.7))
    cheap = list(measured(retrain, result("not", rounds=rounds(0.7, nbytes=100))).values())
    assert "bytes 0.50, flops 0.50; within 0.6" in claims(cheap, ())[-1]
    dear = list(measured(retrain, result("not", rounds=rounds(0.7, nbytes=180))).values())
    assert "bytes 0.90, flops 0.90; not within 0.6" in claims(dear, ())[-1]
    never = list(measured(retrain, result("not", rounds=rounds(0.1))).values())
    assert "never as good on test data" in claims(never, ())[-1]


def test_where_a_client_is_a_person_the_distance_on_who_is_forgotten_is_told() -> None:
    """Gaps in forget of .04 and .01: 2.50 points, deviation 2.12, within 3; of .4: not."""
    retrain = seeded("retrain", 0.5, 0.5)
    near = list(measured(*retrain, *seeded("not", 0.54, 0.51)).values())
    told = (
        "not: the accuracy on who is forgotten is 2.50 ± 2.12 points from retraining's, within 3."
    )
    assert claims(near, (), "natural")[-1] == told
    assert told not in claims(near, (), "iid")
    far = list(measured(*retrain, *seeded("not", 0.9, 0.9)).values())
    assert "40.00 ± 0.00 points from retraining's, not within 3" in claims(far, (), "natural")[-1]
