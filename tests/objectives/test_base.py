"""What an objective owns: every parameter has one owner, and checkpoints forget none."""

import itertools

import pytest
import torch
from slow_teacher import SlowTeacher
from tiny import tiny_model
from torch import nn

from fastimae.objectives import IMAE, MAE, OBJECTIVES, Objective
from fastimae.objectives.base import Teacher, check_parameters
from fastimae.objectives.choice import declaring_class


def slow():
    return SlowTeacher(tiny_model(), mask_ratio=0.5, mask_patch_size=None, momentum=0.9)


class Loose(Objective):
    """An objective with a layer of each kind besides its student."""

    def __init__(self):
        super().__init__()
        self.student, self.fixed = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
        self.layer, self.moves = nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("kept", torch.zeros(1))
        self.register_buffer("derived", torch.zeros(1), persistent=False)

    def trainable(self):
        return {"student": self.student, "layer": self.layer}

    def teachers(self):
        return {
            "fixed": Teacher(module=self.fixed),
            "moves": Teacher(module=self.moves, moves=True),
        }

    def forward(self, batch):
        return {"loss": self.student(batch).sum()}


def test_extra_state_is_all_but_the_student_and_fixed_teachers():
    objective = Loose()
    assert set(objective.extra_state()) == {
        *("layer.weight", "layer.bias", "layer.running_mean", "layer.running_var"),
        *("layer.num_batches_tracked", "moves.weight", "moves.bias", "kept"),
    }
    for tensor in objective.extra_state().values():
        tensor.zero_().add_(7)
    assert objective.moves.weight.eq(7).all() and objective.kept == 7
    assert not objective.extra_state()["layer.weight"].requires_grad


@pytest.mark.parametrize("teacher", [False, True])
def test_built_in_objectives_have_no_extra_state(teacher):
    imae = IMAE(tiny_model(heads=2), tiny_model() if teacher else None)
    assert imae.extra_state() == MAE(tiny_model()).extra_state() == {}


def test_teachers_are_never_in_training_mode():
    objective = Loose().train()
    assert objective.student.training and objective.layer.training
    assert not objective.fixed.training and not objective.moves.training


def test_valid_objectives_pass():
    for objective in (Loose(), slow(), MAE(tiny_model()), IMAE(tiny_model(heads=2), tiny_model())):
        check_parameters(objective)


class Forgotten(Loose):
    def trainable(self):
        return {"student": self.student}


class Shared(Loose):
    def trainable(self):
        return {"student": self.student, "layer": self.layer, "again": self.layer}


class Wanting(Loose):
    def __init__(self):
        super().__init__()
        self.moves.requires_grad_(True)


class Namesakes(Loose):
    def trainable(self):
        return {"student": self.student, "moves": self.layer}


class Hidden(Loose):
    def __init__(self):
        super().__init__()
        self.out_of_sight = [nn.Linear(2, 2)]

    def trainable(self):
        return super().trainable() | {"hidden": self.out_of_sight[0]}


class Nameless(Loose):
    def __init__(self):
        super().__init__()
        self.net, self.student = self.student, None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Hidden, "Hidden: hidden is not registered: make it an attribute"),
        (Nameless, r"Nameless: its __init__ does not set self\.student"),
        (Forgotten, r"Forgotten: layer\.weight is neither in trainable"),
        (Namesakes, "Namesakes: a trainable module and a teacher are both called moves"),
        (Shared, "Shared: layer and again share a parameter"),
        (Wanting, r"Wanting: its teacher moves requires gradients: call requires_grad_\(False\)"),
    ],
)
def test_parameters_without_one_owner_are_named(kind, words):
    with pytest.raises(ValueError, match=words):
        check_parameters(kind())


def test_only_fixed_teachers_compute_in_fp8():
    layer = nn.Linear(2, 2)
    for wrong in ({"moves": True, "output": layer}, {}):
        with pytest.raises(ValueError, match="fp8 must not move, and needs an `output`"):
            Teacher(module=layer, precision="fp8", **wrong)
    Teacher(module=layer, precision="fp8", output=layer)


def test_objectives_share_a_setting_only_by_a_common_base():
    for one, other in itertools.combinations([each.Settings for each in OBJECTIVES.values()], 2):
        for name in vars(one()).keys() & vars(other()).keys():
            assert declaring_class(one, name) is declaring_class(other, name), name
