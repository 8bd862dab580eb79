"""The demonstration's parts: the backdoor, the digits of each client, what is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fednot.demo import report
from fednot.demo.backdoor import BACKDOORS, Backdoor
from fednot.demo.digits import POISONED_SHARE, TEST_SIZE, DigitsTask
from fednot.demo.outcome import Course, Outcome, Point, Verdicts

BACKDOOR = Backdoor(row=1, column=2, target=7, size=2)


def course(label: str, *accuracies: float, stop: int) -> Course:
    points = (Point(index, value, 0.5 / index) for index, value in enumerate(accuracies, 1))
    return Course(label, tuple(points), stop)


def outcome() -> Outcome:
    return Outcome(
        seed=3,
        clients=5,
        assurance="behaviour",
        secure_aggregation=False,
        target=0.9,
        original=course("before the deletion", 0.5, 0.95, stop=2),
        unlearned=replace(
            course("NoT", 0.8, 0.92, 0.93, stop=2),
            verdicts=Verdicts("PASS", "fine.", "FAIL", "it came back."),
            layers=("conv1.weight",),
        ),
        fine_tuned=course("fine-tuning", 0.94, 0.95, 0.95, stop=2),
        retrained=course("retraining", 0.3, 0.6, 0.8, stop=0),
        receipt="out/receipt.jws",
        page="out/receipt.html",
        seconds=1.5,
    )


def test_the_trigger_is_a_white_square_and_nothing_else_changes() -> None:
    images = torch.rand(3, 1, 6, 6) * 0.5
    marked = BACKDOOR.stamped(images)
    assert bool((marked[:, :, 1:3, 2:4] == 1.0).all())
    marked[:, :, 1:3, 2:4] = images[:, :, 1:3, 2:4]
    assert torch.equal(marked, images)


def test_a_share_of_the_images_is_poisoned_and_relabelled() -> None:
    """0.8 of 10 images is 8: 8 carry the trigger and the class 7, 2 are as they were."""
    images, labels = torch.zeros(10, 1, 6, 6), torch.arange(10) % 5
    generator = torch.Generator().manual_seed(0)
    poisoned, relabelled = BACKDOOR.poisoned(images, labels, 0.8, generator)
    triggered = poisoned[:, 0, 1, 2] == 1.0
    assert int(triggered.sum()) == 8
    assert bool((relabelled[triggered] == 7).all())
    assert torch.equal(relabelled[~triggered], labels[~triggered])
    assert float(images.max()) == 0.0, "the given images stay"


def test_probes_are_the_other_classes_with_the_trigger() -> None:
    labels = torch.tensor([7, 1, 7, 2])
    assert BACKDOOR.probes(torch.zeros(4, 1, 6, 6), labels).shape[0] == 2


def test_the_two_backdoors_differ_in_place_and_class() -> None:
    first, second = BACKDOORS
    assert (first.row, first.column) != (second.row, second.column)
    assert first.target != second.target


def test_the_report_names_the_method_that_a_deep_assurance_came_to() -> None:
    shallow = outcome()
    assert "NoT on conv1.weight does not: it came back." in report.meaning(shallow)
    done = replace(
        shallow.unlearned,
        verdicts=Verdicts("PASS", "fine.", "PASS", "fine."),
        layers=(),
        method="shrink-and-perturb:0.3",
    )
    assert report.meaning(replace(shallow, unlearned=done)).endswith(
        "shrink-and-perturb:0.3 stands up to that."
    )


def test_clients_share_no_digit_with_each_other_or_the_test() -> None:
    tasks = [DigitsTask(str(index)) for index in range(5)]
    held = [task.train_data() for task in tasks]
    ids = [data.sample_id(index) for data in held for index in range(len(data))]
    test = DigitsTask().test_data()
    assert test is not None
    ids += [test.sample_id(index) for index in range(len(test))]
    assert len(set(ids)) == len(ids) == 5000
    assert len(test) == TEST_SIZE


def test_only_the_first_client_is_poisoned() -> None:
    shares = []
    for index in range(2):
        data = DigitsTask(str(index)).train_data()
        corner = torch.stack([data[i][0][0, 23:27, 23:27] for i in range(len(data))])
        shares.append(float((corner.flatten(1).min(dim=1).values == 1.0).double().mean()))
    assert shares == [pytest.approx(POISONED_SHARE), 0.0]


def test_the_course_says_where_it_stood_at_its_stop() -> None:
    """NoT stopped after round 2; retraining never, so its last round stands for it."""
    found = outcome()
    assert found.unlearned.at_stop == Point(2, 0.92, 0.25)
    assert found.retrained.at_stop.round == 3
    assert found.unlearned.rounds_to(0.9) == 2
    assert found.retrained.rounds_to(0.9) is None


def test_the_summary_has_its_keys_and_null_where_the_target_was_never_reached(
    tmp_path: Path,
) -> None:
    summary, plot = report.write(outcome(), tmp_path)
    found = json.loads(summary.read_text())
    assert found["rounds_to_target"] == {"not": 2, "retrain": None}
    assert found["unlearned"]["curve"][1] == {
        "round": 2,
        "test_accuracy": 0.92,
        "backdoor_success": 0.25,
    }
    assert {"seed", "clients", "original", "fine_tuned", "retrained", "seconds"} <= set(found)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_table_says_never_where_the_target_was_not_reached() -> None:
    cells = list(report.table(outcome()).columns[-3].cells)
    assert cells == ["", "2", "1", "never"]


def test_the_table_and_the_summary_have_both_verdicts(tmp_path: Path) -> None:
    columns = report.table(outcome()).columns
    behaviour, depth = (list(column.cells)[1] for column in columns[-2:])
    assert (str(behaviour), str(depth)) == ("PASS", "FAIL")
    assert "red" in str(depth.style)
    summary, _ = report.write(outcome(), tmp_path)
    found = json.loads(summary.read_text())
    assert found["verdicts"]["not"]["behaviour"] == "PASS"
    assert found["verdicts"]["not"]["depth"] == "FAIL"
    assert found["receipt"] == "out/receipt.jws"


def test_what_the_verdicts_mean_is_said_in_a_sentence() -> None:
    told = report.meaning(outcome())
    assert "NoT on conv1.weight does not: it came back." in told
    assert "ASSURANCE=deep" in told


def test_a_probe_shows_the_same_images_without_and_with_the_trigger(tmp_path: Path) -> None:
    DigitsTask().write_probe(tmp_path / "probe.npz")
    with np.load(tmp_path / "probe.npz", allow_pickle=False) as probe:
        clean, triggered = probe["clean_x"], probe["trigger_x"]
        assert int(probe["trigger_target"]) == BACKDOORS[0].target
    assert clean.shape == triggered.shape
    assert (triggered[:, :, 23:27, 23:27] == 1.0).all()
    triggered[:, :, 23:27, 23:27] = clean[:, :, 23:27, 23:27]
    assert (triggered == clean).all()


def test_unseen_data_is_made_as_the_clients_own() -> None:
    task = DigitsTask("0")
    unseen = task.unseen_data(task.train_data())
    assert unseen is not None
    own = {task.train_data().sample_id(i) for i in range(len(task.train_data()))}
    assert not own & {unseen.sample_id(i) for i in range(len(unseen))}
    corner = torch.stack([unseen[i][0][0, 23:27, 23:27] for i in range(len(unseen))])
    share = float((corner.flatten(1).min(dim=1).values == 1.0).double().mean())
    assert share == pytest.approx(POISONED_SHARE, abs=0.01)


def test_a_deep_deletion_is_drawn(tmp_path: Path) -> None:
    found = outcome()
    deep = replace(found.unlearned, label="NoT, deep", method="shrink-and-perturb:0.3")
    _, plot = report.write(replace(found, unlearned=deep), tmp_path)
    assert plot.read_bytes().startswith(b"\x89PNG")
