import pytest
from contexts import make_context, make_outputs

from kdjax import models
from kdjax.distillers import taps
from kdjax.train import abstract_outputs
from kdjax.types import Network, UserError


def _stages(count):
    maps = {f"stage{i}{pre}": (8, 8, i) for i in range(1, count + 1) for pre in ("_pre", "")}
    return make_outputs(stem=(8, 8, 3), **maps, pre_logits=(5,))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 3, ["stage1", "stage2", "stage3"]),
        (3, 4, ["stage1", "stage2:stage3", "stage3:stage4"]),
        (4, 3, ["stage1", "stage3:stage2", "stage4:stage3"]),
        (2, 4, ["stage1:stage2", "stage2:stage4"]),
    ],
)
def test_stages_are_paired_by_relative_depth(student, teacher, expected):
    pairs = taps.paired("x", make_context(_stages(student), _stages(teacher)))
    assert list(pairs) == expected
    before = taps.paired("x", make_context(_stages(student), _stages(teacher)), suffix="_pre")
    assert len(before) == min(student, teacher)
    assert all("_pre" in name for name in before)


def test_a_tap_can_name_the_students_and_the_teachers_map():
    context = make_context(_stages(3), _stages(4))
    pairs = taps.paired("x", context, ("stage2", "stem:stage4"))
    assert [(s.shape[-1], t.shape[-1]) for s, t in pairs.values()] == [(2, 2), (3, 4)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("stage4",), "method 'x': the student has no tap 'stage4': choose from stem, stage1_pre"),
        (("stem:layer1",), "method 'x': the teacher has no tap 'layer1': choose from stem"),
        (("pre_logits",), r"compares feature maps .* 'pre_logits' has shape \(2, 5\)"),
    ],
)
def test_a_wrong_tap_is_a_one_line_error(names, message):
    with pytest.raises(UserError, match=message):
        taps.maps("x", make_context(_stages(3), _stages(4)), names)


def test_networks_without_stages_are_refused():
    with pytest.raises(UserError, match="method 'x' needs feature maps: a network has no stages"):
        taps.paired("x", make_context(make_outputs(stem=(8, 8, 3)), _stages(3)))


def test_embeddings_are_the_inputs_of_the_classifier():
    network = Network(models.create("vgg8", num_classes=3), (0.5,) * 3, (0.5,) * 3)
    outputs, variables = abstract_outputs(network, (32, 32, 3))
    student, _ = taps.embeddings("x", make_context(outputs, outputs))
    assert student.shape[-1] == variables["params"]["classifier"]["kernel"].shape[0]
