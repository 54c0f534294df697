"""Behaviour specific to methods that compare feature maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, losses
from kdjax.types import Context, Outputs, UserError

B = 6


def _map(seed, *shape):
    return jax.random.normal(jax.random.key(seed), (B, *shape))


def _context(student, teacher, variables=None, step=0):
    return Context(
        student=Outputs(_map(90, 3), student),
        teachers=(Outputs(_map(91, 3), teacher),),
        labels=jnp.eye(3)[jnp.arange(B) % 3],
        index=jnp.arange(B),
        step=jnp.int32(step),
        rng=jax.random.key(step),
        teacher_variables=(variables or {},),
    )


def _equal_stages(widths=(2, 3), sizes=(8, 4)):
    def taps(seed):
        found = {"stem": _map(seed, 8, 8, 2)}
        for i, (width, size) in enumerate(zip(widths, sizes, strict=True), start=1):
            pre = _map(seed + i, size, size, width)
            found |= {f"stage{i}_pre": pre, f"stage{i}": jax.nn.relu(pre)}
        return found | {"pre_logits": _map(seed + 9, 5)}

    return taps(0), taps(20)


def _value(distiller, context):
    return distiller.loss(distiller.init(jax.random.key(0), context), context).value


def test_losses_are_summed_over_the_stages():
    student, teacher = _equal_stages()
    context = _context(student, teacher)
    for method, loss in ((distillers.at, losses.attention_transfer), (distillers.nst, losses.nst)):
        expected = sum(loss(student[f"stage{i}"], teacher[f"stage{i}"]) for i in (1, 2))
        np.testing.assert_allclose(_value(method(), context), expected, rtol=1e-5)


def test_sp_compares_the_last_stage():
    student, teacher = _equal_stages()
    expected = losses.similarity_preserving(student["stage2"], teacher["stage2"])
    np.testing.assert_allclose(_value(distillers.sp(), _context(student, teacher)), expected)


def test_ab_gives_a_stage_half_the_weight_of_the_next():
    student, teacher = _equal_stages()
    one, two = (
        losses.activation_boundary(student[f"stage{i}_pre"], teacher[f"stage{i}_pre"])
        for i in (1, 2)
    )
    context = _context(student, teacher)
    np.testing.assert_allclose(
        _value(distillers.ab(), context), 3 / 1000 * (one / 2 + two), rtol=1e-5
    )


def test_fsp_has_no_adapters_when_channels_are_equal():
    student, teacher = _equal_stages()
    context = _context(student, teacher)
    distiller = distillers.fsp()
    assert not jax.tree.leaves(distiller.init(jax.random.key(0), context))
    bottoms, tops = ("stem", "stage1"), ("stage1", "stage2")
    expected = sum(
        losses.fsp(student[a], student[b], teacher[a], teacher[b])
        for a, b in zip(bottoms, tops, strict=True)
    )
    np.testing.assert_allclose(_value(distiller, context), expected, rtol=1e-5)


def test_ofd_estimates_margins_as_the_mean_negative_response_over_batches():
    student, teacher = _equal_stages()
    never = jnp.abs(teacher["stage2_pre"][..., :1])
    teacher["stage2_pre"] = teacher["stage2_pre"].at[..., :1].set(never)
    distiller = distillers.ofd()
    variables = distiller.init(jax.random.key(0), _context(student, teacher))
    batches = []
    for step in range(3):
        shifted = teacher | {"stage1_pre": teacher["stage1_pre"] - 0.2 * step}
        batches.append(np.asarray(shifted["stage1_pre"]).reshape(-1, 2))
        term = distiller.loss(variables, _context(student, shifted, step=step))
        variables = variables | {"state": term.state}
    expected = np.mean([[x[x < 0].mean() for x in batch.T] for batch in batches], axis=0)
    margins = term.state["teacher0"]["margins"]
    np.testing.assert_allclose(margins["stage1_pre"]["mean"], expected, rtol=1e-4)
    np.testing.assert_array_equal(margins["stage2_pre"]["batches"], [0.0, 3.0, 3.0])
    assert margins["stage2_pre"]["mean"][0] == 0


def test_ofd_computes_margins_from_given_norms():
    student, teacher = _equal_stages()
    params = {
        "bn1": {"scale": jnp.full(2, 1.5), "bias": jnp.full(2, 0.2)},
        "bn2": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "fc": {"kernel": jnp.ones((3, 2))},
    }
    context = _context(student, teacher, {"params": params})
    distiller = distillers.ofd(norms=("bn1", "bn2"))
    variables = distiller.init(jax.random.key(0), context)
    value, state, *_ = distiller.loss(variables, context)
    assert not jax.tree.leaves(state["teacher0"]["margins"])
    expected = np.zeros(B)
    for i, (norm, weight) in enumerate((("bn1", 0.5), ("bn2", 1.0)), start=1):
        kernel, scale = (
            jax.tree.leaves(variables["params"]["teacher0"][f"stage{i}_pre"][name])[0]
            for name in ("Conv_0", "BatchNorm_0")
        )
        x = np.asarray(student[f"stage{i}_pre"]) @ np.asarray(kernel)[0, 0]
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        margin = losses.ofd_margin(params[norm]["scale"], params[norm]["bias"])
        one = losses.ofd(jnp.asarray(x, jnp.float32), teacher[f"stage{i}_pre"], margin)
        assert scale.shape == (i + 1,)
        expected += weight * np.asarray(one)
    np.testing.assert_allclose(value, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        (("bn1",), "needs one norm for each of stage1_pre, stage2_pre: got bn1"),
        (
            ("bn2", "bn1"),
            "'bn2' is not a batch norm of the teacher with the 2 channels of .* from bn1",
        ),
        (
            ("bn1", "fc"),
            "'fc' is not a batch norm of the teacher with the 3 channels of .* from bn2",
        ),
    ],
)
def test_ofd_reports_the_norms_that_fit(norms, message):
    student, teacher = _equal_stages()
    params = {f"bn{i}": {"scale": jnp.ones(i + 1), "bias": jnp.ones(i + 1)} for i in (1, 2)}
    params["fc"] = {"kernel": jnp.ones((3, 2))}
    with pytest.raises(UserError, match=message):
        distillers.ofd(norms=norms).init(
            jax.random.key(0), _context(student, teacher, {"params": params})
        )


def test_each_stage_of_ft_trains_its_own_adapter_only():
    student, teacher = _equal_stages()
    context = _context(student, teacher)
    for stage, trained in (("paraphraser", {"paraphraser"}), ("translator", {"translator"})):
        distiller = distillers.ft(stage=stage)
        variables = distiller.init(jax.random.key(0), context)
        assert {name.split("_")[0] for name in variables["params"]["teacher0"]} == trained
    # In the second stage the paraphraser is state and does not change.
    assert any("paraphraser" in name for name in variables["state"]["teacher0"])
    state = distiller.loss(variables, context).state["teacher0"]
    for name, before in variables["state"]["teacher0"].items():
        if "paraphraser" in name:
            assert jax.tree.all(jax.tree.map(jnp.array_equal, state[name], before))


def test_ft_trains_the_paraphraser_by_its_reconstruction_only():
    student, teacher = _equal_stages()
    context = _context(student, teacher)
    joint = distillers.ft()
    variables = joint.init(jax.random.key(0), context)

    def gradient(distiller, params):
        def loss(params):
            return distiller.loss(
                {"params": params, "state": variables["state"]}, context
            ).value.sum()

        return jax.grad(loss)(params)["teacher0"]["paraphraser_stage2"]

    alone = {
        "teacher0": {
            name: p
            for name, p in variables["params"]["teacher0"].items()
            if name.startswith("paraphraser")
        }
    }
    both = gradient(joint, variables["params"])
    only = gradient(distillers.ft(stage="paraphraser"), alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), both, only)


@pytest.mark.parametrize("survey", [True, False])
def test_sfd_peak_is_the_largest_distance_between_maxima_in_the_batch(survey):
    """Before the activations; the survey's code takes two maps of the stem, as its networks have."""
    student, teacher = _equal_stages()
    names = ["stem", "stage1_pre", "stage2_pre"]
    if survey:
        names[:1] = ["stem_conv", "stem_pre"]
        for i, taps in enumerate((student, teacher)):
            taps |= {"stem_conv": _map(70 + i, 8, 8, 2), "stem_pre": _map(80 + i, 8, 8, 2)}
    expected = 0.0
    for name in names:
        peaks = [np.asarray(x[name]).max((1, 2)) for x in (student, teacher)]
        expected += np.linalg.norm(peaks[0] - peaks[1], axis=1).max()
    actual = _value(distillers.sfd(form="peak"), _context(student, teacher))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    if survey:
        # One network of another family is enough for the stems to be compared after the ReLU.
        del teacher["stem_conv"]
        other = _value(distillers.sfd(form="peak"), _context(student, teacher))
        assert abs(other - actual) > 1e-3


@pytest.mark.parametrize(
    ("layers", "compared"),
    [
        ("all", ("stem", "stage1", "stage2")),
        ("first:1", ("stem",)),
        ("last:2", ("stage1", "stage2")),
        ("every:2", ("stage2", "stem")),
    ],
)
def test_sfd_compares_the_layers_that_it_is_told(layers, compared):
    student, teacher = _equal_stages()
    expected = sum(losses.sfd(student[n], teacher[n], distance="cosine") for n in compared)
    ours = _value(distillers.sfd(layers=layers, distance="cosine"), _context(student, teacher))
    np.testing.assert_allclose(ours, np.mean(expected) if ours.ndim == 0 else expected, rtol=1e-5)


@pytest.mark.parametrize(("sizes", "side"), [((4, 2), 4), ((16, 8), 3), ((8, 4), 0)])
def test_sfd_by_a_deconvolution_maps_the_student_to_the_teachers_sizes(sizes, side):
    """A trained transposed convolution or convolution; none where the sizes are equal."""
    student, _ = _equal_stages(sizes=sizes)
    _, teacher = _equal_stages()
    context = _context(student, teacher)
    distiller = distillers.sfd(pool="deconvolution")
    variables = distiller.init(jax.random.key(0), context)
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    if not side:
        assert not kernels
        expected = _value(distillers.sfd(), context)
        np.testing.assert_allclose(distiller.loss(variables, context).value, expected, rtol=1e-6)
        return
    assert kernels == [(side, side, 2, 2), (side, side, 3, 3)]

    def loss(params):
        return distiller.loss({**variables, "params": params}, context).value.mean()

    before, gradient = jax.value_and_grad(loss)(variables["params"])
    step = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
    assert loss(step) < before


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: distillers.sfd(pool="min"), "unknown pool 'min' of sfd: choose from max, average"),
        (lambda: distillers.sfd(layers="last"), "unknown layers 'last' of sfd: choose from all"),
        (lambda: distillers.sfd(layers="some:1"), "unknown layers 'some:1' of sfd"),
        (lambda: distillers.sfd(form="mean"), "unknown form 'mean' of sfd: choose from map, peak"),
        (lambda: distillers.ft(stage="last"), "unknown stage 'last' of ft: choose from joint"),
    ],
)
def test_bad_arguments_are_one_line_errors(create, message):
    with pytest.raises(UserError, match=message):
        create()


def test_each_teacher_has_its_own_adapters():
    student, teacher = _equal_stages()
    context = _context(student, teacher)
    other = Outputs(context.teacher.logits, {k: 2 * v for k, v in teacher.items()})
    both = context.replace(teachers=(context.teacher, other), teacher_variables=({}, {}))
    distiller = distillers.fitnet()
    variables = distiller.init(jax.random.key(0), both)
    assert list(variables["params"]) == ["teacher0", "teacher1"]
    whole = distiller.loss(variables, both).value
    parts = []
    for i, one in enumerate(both.teachers):
        own = {k: {"teacher0": v[f"teacher{i}"]} for k, v in variables.items()}
        alone = context.replace(teachers=(one,))
        parts.append(distiller.loss(own, alone).value)
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), rtol=1e-5)
