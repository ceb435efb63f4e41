"""The teacher compared with the formulas of its papers: its weights, its labels, and its loss term."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from psptool.common.distributed import ProcessGroup
from psptool.data.batches.streams import Batch, Stream
from psptool.losses.total import total_loss
from psptool.model.classifier import PSPNet
from psptool.schemas.training import Balance, TeacherSettings, TrainingConfig
from psptool.training.optimization import build_optimizer, use_learning_rate
from psptool.training.step import StepInputs, StepScalars, TrainStep
from psptool.training.teacher import LABEL_MOMENTUM, Teacher

from ..streams import two
from ..trained import TRAINING, make_network
from .tiny import RECIPE, change, make_files

WITH_TEACHER = TRAINING.model_copy(update={"teacher": TeacherSettings(weight=0.7)})


def make_streams(clips: int = 6, seed: int = 0) -> Batch:
    x = torch.randn(2, clips, 3, 4, 20, generator=torch.Generator().manual_seed(seed))
    return two(Stream(x[0], torch.eye(clips)), Stream(x[1], torch.eye(clips)))


def uncertain_network() -> PSPNet:
    """A network with small logits, so that no probability is zero."""
    model = make_network()
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)
    return model


def probabilities(model: PSPNet, streams: Batch) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(streams).fused
    return logits.softmax(1)


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0.0), (19, 0.0), (20, 0.0), (30, 0.35), (40, 0.7), (99, 0.7)]
)
def test_the_weight_of_its_labels_is_zero_until_the_start_and_then_a_linear_ramp(
    step: int, weight: float
) -> None:
    assert Teacher(make_network(), WITH_TEACHER.teacher, 100).weight(step) == pytest.approx(weight)


def test_without_a_ramp_its_labels_have_full_weight_from_the_start() -> None:
    teacher = Teacher(make_network(), TeacherSettings(weight=0.7, start=0.5, ramp=0), 100)
    assert [teacher.weight(step) for step in (49, 50)] == [0, 0.7]


def test_its_weights_are_the_moving_average_of_the_weights_of_the_network() -> None:
    model = make_network(1)
    teacher = Teacher(model, TeacherSettings(weight=1, momentum=0.3), 100)
    mean = {name: x.clone() for name, x in model.state_dict().items()}
    for step in range(4):
        for seed, x in enumerate(model.state_dict().values()):
            if x.is_floating_point():
                x.add_(torch.randn(x.shape, generator=torch.Generator().manual_seed(100 * step + seed)))
            else:
                x.add_(1)  # the batch counter of a batch norm
        momentum = min(0.3, (1 + step) / (10 + step))
        assert teacher.momentum(step) == momentum
        teacher.update(model, torch.tensor(momentum, dtype=torch.float64))
        for name, x in model.state_dict().items():
            mean[name] = momentum * mean[name] + (1 - momentum) * x if x.is_floating_point() else x
    for name, x in teacher.model.state_dict().items():
        torch.testing.assert_close(x, mean[name], msg=name)


def test_a_step_updates_it_with_the_weights_after_the_step_and_the_momentum_of_the_step() -> None:
    model = make_network().train()
    optimizer, scalars = build_optimizer(model, WITH_TEACHER.optim), StepScalars.on(torch.device("cpu"))
    use_learning_rate(optimizer, scalars.lr)
    scalars.set(lr=0.1, teacher_weight=0.5, teacher_momentum=0.75)
    teacher = Teacher(model, WITH_TEACHER.teacher, 100)
    before = {name: x.clone() for name, x in teacher.model.state_dict().items()}
    TrainStep(model, optimizer, WITH_TEACHER, torch.float32, teacher)(
        StepInputs(make_streams(), torch.tensor([0, 1]), 4, scalars)
    )
    weights = model.state_dict()
    assert not torch.equal(weights["classifier.weight"], before["classifier.weight"])
    for name, x in teacher.model.state_dict().items():
        if x.is_floating_point():
            torch.testing.assert_close(x, 0.75 * before[name] + 0.25 * weights[name], msg=name)


def test_it_has_no_contrastive_branch_and_does_not_change_the_network() -> None:
    model = make_network().train()
    teacher = Teacher(model, WITH_TEACHER.teacher, 100)
    assert not any(name.startswith(("model.pyramid", "model.projection")) for name in teacher.state_dict())
    # The class frequencies follow from the split; checkpoints of earlier versions do not have them.
    assert {name for name in teacher.state_dict() if not name.startswith("model.")} == {"mean_label"}
    assert model.pyramid is not None
    assert model.training
    assert not teacher.model.training
    # Biases before a batch norm are not trained.
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        name: p.requires_grad for name, p in make_network().named_parameters()
    }


@pytest.mark.parametrize("balance", ["mean", "off"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.01])
def test_its_labels_are_its_balanced_and_sharpened_probabilities(
    temperature: float, balance: Balance
) -> None:
    model = uncertain_network()
    teacher = Teacher(model, TeacherSettings(weight=1, temperature=temperature, balance=balance), 100)
    mean = np.full(10, 0.1)
    for seed in range(3):
        streams = make_streams(seed=seed)
        found = teacher.predict(streams)
        p = probabilities(model, streams).double().numpy()
        mean = LABEL_MOMENTUM * mean + (1 - LABEL_MOMENTUM) * p.mean(0)
        for row, own in zip(found, p, strict=True):
            powers = [
                (x / m if balance == "mean" else x) ** (1 / temperature)
                for x, m in zip(own, mean, strict=True)
            ]
            expected = np.array(powers) / sum(powers)
            np.testing.assert_allclose(row, expected, atol=1e-4)


def test_balancing_reduces_the_frequency_of_a_class_that_it_predicts_too_often() -> None:
    model = uncertain_network()
    with torch.no_grad():
        model.classifier.bias[3] += 2
    balances: tuple[Balance, ...] = ("off", "mean")
    plain, balanced = (
        Teacher(model, TeacherSettings(weight=1, temperature=1, balance=balance), 100) for balance in balances
    )
    for seed in range(40):
        frequency, balanced_frequency = (
            one.predict(make_streams(seed=seed)).mean(0)[3] for one in (plain, balanced)
        )
    assert frequency > 0.5
    assert balanced_frequency < 0.25


def test_balancing_to_the_frequencies_of_the_labelled_clips_equals_one_literal_iteration_per_step() -> None:
    model = uncertain_network()
    targets = [0.19, 0.01, *[0.1] * 8]
    settings = TeacherSettings(weight=1, temperature=0.5, balance="labelled")
    teacher = Teacher(model, settings, 100, frequencies=torch.tensor(targets))
    divisors = [0.1] * 10
    for seed in range(3):
        streams = make_streams(seed=seed)
        found = teacher.predict(streams)
        rows = probabilities(model, streams).double().tolist()
        balanced = [[x / d for x, d in zip(row, divisors, strict=True)] for row in rows]
        shares = [sum(row[k] / sum(row) for row in balanced) / len(rows) for k in range(10)]
        divisors = [
            d ** (1 - 0.1 / 3) * min(max(share / target, 1 / 20), 20) ** 0.1
            for d, share, target in zip(divisors, shares, targets, strict=True)
        ]
        divisors = [d / sum(divisors) for d in divisors]
        np.testing.assert_allclose(teacher.mean_label, divisors, rtol=1e-5)
        for row, own in zip(found, rows, strict=True):
            powers = [(x / d) ** 2 for x, d in zip(own, divisors, strict=True)]
            np.testing.assert_allclose(row, np.array(powers) / sum(powers), atol=1e-5)


class NeverLast(nn.Module):
    """Predicts logits (8, 10) that are equal for all classes but the last."""

    def __init__(self, last: float) -> None:
        super().__init__()
        self.logits = torch.tensor([0.0] * 9 + [last]).expand(8, 10)

    def forward(self, batch: Batch) -> SimpleNamespace:
        return SimpleNamespace(fused=self.logits)


@pytest.mark.parametrize("last", [-46.0, -1000.0], ids=["probability 1e-20", "probability 0"])
@pytest.mark.parametrize("balance", ["mean", "labelled"])
def test_balancing_does_not_raise_a_class_that_is_neither_labelled_nor_ever_predicted(
    balance: Balance, last: float
) -> None:
    settings = TeacherSettings(weight=1, temperature=1, balance=balance)
    expected = torch.tensor([1 / 9] * 9 + [0])
    teacher = Teacher(make_network(), settings, 5000, frequencies=expected)
    teacher.model = NeverLast(last)  # type: ignore[assignment]
    streams = make_streams(1)
    for _ in range(1000):  # the moving average of its frequency falls to 1e-20
        found = teacher.predict(streams)
    torch.testing.assert_close(found, expected.expand(8, 10), atol=1e-6, rtol=0)
    if balance == "labelled":  # the divisor has a minimum, so that it can recover quickly
        assert float(teacher.mean_label[9]) == pytest.approx(1e-4)


def test_a_class_that_is_labelled_but_not_predicted_lowers_its_divisor_by_a_limited_factor_per_step() -> None:
    teacher = Teacher(make_network(), TeacherSettings(weight=1, balance="labelled"), 100)
    teacher.model = NeverLast(-1000.0)  # type: ignore[assignment]
    teacher.predict(make_streams())
    factors = torch.tensor([(10 / 9) ** 0.1] * 9 + [(1 / 20) ** 0.1])
    torch.testing.assert_close(teacher.mean_label, factors / factors.sum())


class Ranks(ProcessGroup):
    """One of two processes, of which the other one has the same clips."""

    def sum(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("balance", ["mean", "labelled"])
def test_the_mean_of_its_labels_is_over_the_clips_of_all_ranks(balance: Balance) -> None:
    settings, streams = TeacherSettings(weight=1, balance=balance), make_streams()
    one, two = (Teacher(uncertain_network(), settings, 100) for _ in range(2))
    found, expected = two.predict(streams, Ranks(0, 2), clips=12), one.predict(streams)
    torch.testing.assert_close(two.mean_label, one.mean_label)
    torch.testing.assert_close(found, expected)


class Biased(nn.Module):
    """Predicts logits (48, 10) that favour class 3, the same at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = 2 * torch.randn(48, 10, generator=torch.Generator().manual_seed(0))
        self.logits[:, 3] += 6

    def forward(self, batch: Batch) -> SimpleNamespace:
        return SimpleNamespace(fused=self.logits)


TARGETS = torch.tensor([0.19, 0.01, *[0.1] * 8])


def balance_biased_predictions(balance: Balance) -> tuple[Teacher, Tensor]:
    """The teacher after 1,000 steps, and the class frequencies (K,) of its last labels."""
    settings = TeacherSettings(weight=1, temperature=1, balance=balance)
    teacher = Teacher(make_network(), settings, 100, frequencies=TARGETS)
    teacher.model = Biased()  # type: ignore[assignment]
    for _ in range(1000):
        labels = teacher.predict(make_streams())
    return teacher, labels.mean(0)


def test_labels_get_closer_to_the_frequencies_of_the_labelled_clips_than_by_division_by_the_mean() -> None:
    _, by_mean = balance_biased_predictions("mean")
    _, as_labelled = balance_biased_predictions("labelled")
    # Class 3 is predicted too often, class 0 is the most frequent one, and class 1 is rare.
    for number in (3, 0, 1):
        assert abs(as_labelled[number] - TARGETS[number]) < abs(by_mean[number] - TARGETS[number])
    assert (as_labelled - TARGETS).abs().sum() < 0.8 * (by_mean - TARGETS).abs().sum()


def test_divisors_tend_to_the_third_power_of_predicted_by_wanted_frequency() -> None:
    teacher, frequencies = balance_biased_predictions("labelled")
    power = (frequencies / TARGETS) ** 3
    assert power.max() / power.min() > 20
    torch.testing.assert_close(teacher.mean_label, power / power.sum(), atol=0, rtol=1e-3)


@pytest.mark.parametrize(("earlier", "now"), [(True, "mean"), (False, "off")])
def test_the_balance_of_earlier_configurations_is_read(earlier: bool, now: Balance) -> None:
    assert TeacherSettings.model_validate({"balance": earlier}).balance == now


def test_its_loss_term_is_the_cross_entropy_with_its_labels_on_the_pool_only() -> None:
    model, streams, labels = uncertain_network(), make_streams(), torch.tensor([0, 1])
    teacher_labels = torch.rand(4, 10, generator=torch.Generator().manual_seed(1)).softmax(1)
    terms = total_loss(
        model, streams, labels, WITH_TEACHER, torch.float32, teacher_labels=teacher_labels, teacher_weight=0.3
    )
    p = probabilities(model, streams)[2:]
    expected = -sum(
        float(t * math.log(q))
        for row, own in zip(teacher_labels, p, strict=True)
        for t, q in zip(row, own, strict=True)
    )
    assert float(terms["teacher"].detach()) == pytest.approx(expected / 4, rel=1e-5)
    rest = terms["ce"] + WITH_TEACHER.loss.contrast_weight * sum(
        terms[level] for level in WITH_TEACHER.contrast_levels
    )
    assert float(terms["loss"].detach()) == pytest.approx(
        float((rest + 0.3 * terms["teacher"]).detach()), rel=1e-6
    )


def test_its_loss_term_is_zero_before_it_predicts_labels() -> None:
    terms = total_loss(make_network(), make_streams(), torch.tensor([0, 1]), WITH_TEACHER, torch.float32)
    assert float(terms["teacher"]) == 0


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (WITH_TEACHER, {"loss", "ce", "body", "part", "joint", "teacher"}),
        (TRAINING, {"loss", "ce", "body", "part", "joint"}),
        (WITH_TEACHER.model_copy(update={"method": "supervised"}), {"loss", "ce"}),
    ],
)
def test_the_loss_has_a_teacher_term_only_with_a_teacher(config: TrainingConfig, names: set[str]) -> None:
    terms = total_loss(make_network(), make_streams(), torch.tensor([0, 1]), config, torch.float32)
    assert terms.keys() == names


def test_training_with_a_teacher_uses_the_pool_without_the_contrastive_loss(tmp_path: Path) -> None:
    recipe = change(RECIPE, loss={"contrast_weight": 0.0}, teacher=TeacherSettings(weight=1, start=0, ramp=0))
    trained = make_files(tmp_path).train(recipe)
    assert trained.final.terms.keys() == {"loss", "ce", "teacher"}
    assert trained.final.terms["teacher"] > 0
    assert trained.final.terms["loss"] == pytest.approx(
        trained.final.terms["ce"] + trained.final.terms["teacher"], rel=1e-5
    )
