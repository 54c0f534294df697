"""The fusions against NumPy, their sizes against the original code, and dependencies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, losses, models, train
from kdjax.distillers.review import Fusion, Review
from kdjax.types import Context, Network, Outputs, UserError


def _conv(x, kernel):
    """A zero-padded convolution with stride 1, NHWC and HWIO."""
    k = kernel.shape[0]
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(k) for j in range(k))


def _norm(x, params):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]


def _nearest(x, size):
    rows = np.arange(size[0]) * x.shape[1] // size[0]
    columns = np.arange(size[1]) * x.shape[2] // size[1]
    return x[:, rows][:, :, columns]


def _fuse(params, x, deeper, target, attention=True, direct=False):
    """The attention-based fusion of Chen et al. 2021, figure 3a, as their code has it."""
    x = _norm(_conv(x, params["conv1"]["kernel"]), params["bn1"])
    if deeper is not None:
        if direct:
            deeper = _conv(deeper, params["conv_deeper"]["kernel"])
            deeper = _norm(deeper, params["bn_deeper"])
        deeper = _nearest(deeper, x.shape[1:3])
        z = np.ones((*x.shape[:3], 2))
        if attention:
            z = _conv(np.concatenate([x, deeper], -1), params["att_conv"]["kernel"])
            z = 1 / (1 + np.exp(-z - params["att_conv"]["bias"]))
        x = x * z[..., :1] + deeper * z[..., 1:]
    x = _nearest(x, target[:2])
    return (x if direct else _norm(_conv(x, params["conv2"]["kernel"]), params["bn2"])), x


def _random(tree, seed=0):
    leaves, structure = jax.tree.flatten(tree)
    source = np.random.default_rng(seed)
    return structure.unflatten([0.5 * source.normal(size=x.shape).astype("f") for x in leaves])


FEATURES = ((3, 8, 8, 4), (3, 4, 4, 6), (3, 5))
TARGETS = ((16, 16, 3), (6, 6, 7), (1, 1, 9))


def _review(**attributes):
    """A module, random parameters and random inputs."""
    module = Review(targets=TARGETS, **attributes)
    source = np.random.default_rng(1)
    features = tuple(source.normal(size=shape).astype(np.float32) for shape in FEATURES)
    params = _random(jax.eval_shape(module.init, jax.random.key(0), features)["params"])
    return module, params, features


@functools.partial(jax.jit, static_argnums=0)
def _outputs(module, params, features):
    return module.apply({"params": params}, features, mutable=["batch_stats"])[0]


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ({}, {}),
        ({"fusion": "sum"}, {"attention": False}),
        ({"residual": "output"}, {"direct": True}),
        ({"fusion": "sum", "residual": "output"}, {"attention": False, "direct": True}),
        ({"mid_channels": 2}, {}),
    ],
)
def test_fusions_equal_an_independent_numpy_implementation(attributes, options):
    """Three levels; the student's maps differ from the teacher's in size and channels."""
    module, params, features = _review(**attributes)
    actual = _outputs(module, params, features)
    residual = None
    for i in (2, 1, 0):
        x = features[i] if i < 2 else features[i][:, None, None]
        x = x.astype(np.float64)
        expected, residual = _fuse(params[f"fusion{i + 1}"], x, residual, TARGETS[i], **options)
        (output,) = actual[i]
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)
    mid_channels = params["fusion1"]["conv1"]["kernel"].shape[-1]
    if "residual" not in attributes:
        assert mid_channels == attributes.get("mid_channels", 5)


def test_without_fusion_each_output_is_a_convolution_of_one_map():
    for fusion in ("none", "pairs"):
        module, params, features = _review(fusion=fusion)
        actual = _outputs(module, params, features)
        for i in range(3):
            deepest = i + 1 if fusion == "none" else 3
            assert len(actual[i]) == deepest - i
            for j in range(i, deepest):
                name = f"fusion{i + 1}" + (f"_{j + 1}" if fusion == "pairs" else "")
                x = features[j] if j < 2 else features[j][:, None, None]
                expected, _ = _fuse(params[name], x.astype(np.float64), None, TARGETS[i])
                np.testing.assert_allclose(actual[i][j - i], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("fusion", "seen"),
    [
        ("none", [{0}, {1}, {2}]),
        ("pairs", [{0, 1, 2}, {1, 2}, {2}]),
        ("sum", [{0, 1, 2}, {1, 2}, {2}]),
        ("attention", [{0, 1, 2}, {1, 2}, {2}]),
    ],
)
def test_a_level_of_the_teacher_guides_the_students_levels_from_its_depth_on(fusion, seen):
    module, params, features = _review(fusion=fusion)
    for i, levels in enumerate(seen):
        gradients = jax.jit(
            jax.grad(lambda f, i=i: sum(jnp.sum(x**3) for x in _outputs(module, params, f)[i]))
        )(features)
        assert {j for j, g in enumerate(gradients) if jnp.any(g != 0)} == levels


def test_only_fusions_of_two_maps_have_attention():
    for fusion, expected in (("none", 0), ("pairs", 0), ("sum", 0), ("attention", 2)):
        _, params, _ = _review(fusion=fusion)
        assert sum("att_conv" in p for p in params.values()) == expected
        assert "att_conv" not in params.get("fusion3", {})


def test_convolutions_are_initialised_as_in_the_original():
    module = Fusion(target=(4, 4, 32), mid_channels=64)
    inputs = (jnp.zeros((1, 4, 4, 48)), jnp.zeros((1, 4, 4, 64)))
    params = jax.jit(module.init)(jax.random.key(0), *inputs)["params"]
    for name, bound in (("conv1", 3 / 48), ("conv2", 3 / 576), ("att_conv", 1 / 128)):
        kernel = np.abs(params[name]["kernel"])
        assert 0.9 * bound**0.5 < kernel.max() <= bound**0.5
    assert 0 < np.abs(params["att_conv"]["bias"]).max() <= 128**-0.5


def _abstract(name, resolution=32):
    """A network's outputs for a batch of two, as shapes."""
    module = models.create(name, num_classes=10)
    network = Network(module, (0.5,) * 3, (0.25,) * 3)
    outputs, _ = train.abstract_outputs(network, (resolution, resolution, 3))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), outputs)


def _context(teacher, student):
    shape = jax.ShapeDtypeStruct
    return Context(
        student=student,
        teachers=(teacher,),
        labels=shape((2, 10), jnp.float32),
        index=shape((2,), jnp.int32),
        step=shape((), jnp.int32),
        rng=shape((), jax.random.key(0).dtype),
    )


def _variables(distiller, context):
    return jax.eval_shape(lambda key: distiller.init(key, context), jax.random.key(0))


@pytest.fixture(scope="module")
def outputs():
    known = {}
    return lambda name: known.setdefault(name, _abstract(name))


R50 = (256, 512, 1024, 2048, 2048)
VGG = (128, 256, 512, 512, 512)


# Input and output channels in the original code, shallow to deep. The number of blocks does not
# matter: the shallowest network with these widths represents the others.
@pytest.mark.parametrize(
    ("teacher", "student", "inputs", "targets"),
    [
        ("resnet14", "resnet8", (16, 32, 64, 64), (16, 32, 64, 64)),
        ("resnet32x4", "resnet8x4", (64, 128, 256, 256), (64, 128, 256, 256)),
        ("wrn_16_2", "wrn_10_2", (32, 64, 128, 128), (32, 64, 128, 128)),
        ("wrn_16_2", "wrn_10_1", (16, 32, 64, 64), (32, 64, 128, 128)),
        ("resnet8x4", "shufflenetv1", (240, 480, 960, 960), (64, 128, 256, 256)),
        ("wrn_10_2", "shufflenetv1", (240, 480, 960, 960), (32, 64, 128, 128)),
        ("resnet8x4", "shufflenetv2", (116, 232, 464, 1024), (64, 128, 256, 256)),
        ("vgg13", "vgg8", VGG, VGG),
        ("resnet50", "vgg8", VGG, R50),
        ("vgg13", "mobilenetv2_half", (12, 16, 48, 160, 1280), VGG),
        ("resnet50", "mobilenetv2_half", (12, 16, 48, 160, 1280), R50),
    ],
)
def test_fusions_have_as_many_parameters_as_the_original(
    outputs, teacher, student, inputs, targets
):
    variables = _variables(distillers.review(), _context(outputs(teacher), outputs(student)))
    mid = min(512, inputs[-1])
    expected = 0
    for i, (c_in, c_out) in enumerate(zip(inputs, targets, strict=True)):
        expected += c_in * mid + 2 * mid + 9 * mid * c_out + 2 * c_out
        if i < len(inputs) - 1:
            expected += 2 * (2 * mid) + 2
    actual = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert actual == expected


@pytest.mark.parametrize(
    ("teacher", "student", "levels"),
    [("resnet8", "vgg8", 4), ("resnet18", "resnet8", 4), ("wrn_10_2", "lenet", 3)],
)
def test_there_are_as_many_levels_as_the_shallower_network_has(outputs, teacher, student, levels):
    context = _context(outputs(teacher), outputs(student))
    variables = _variables(distillers.review(), context)
    assert len(variables["params"]["teacher0"]["review"]) == levels


def _small(seed, channels, b=4):
    """Outputs with three stages, before and after a ReLU."""
    source = np.random.default_rng(seed)
    taps = {}
    for stage, (c, size) in enumerate(zip(channels, (8, 4, 2), strict=True), start=1):
        x = jnp.asarray(source.normal(size=(b, size, size, c)).astype(np.float32))
        taps |= {f"stage{stage}_pre": x, f"stage{stage}": jnp.maximum(x, 0)}
    taps["pre_logits"] = taps["stage3"].mean((1, 2))
    logits = jnp.asarray(source.normal(size=(b, 3)).astype(np.float32))
    return Outputs(logits, taps)


def _small_context():
    return Context(
        student=_small(0, (3, 4, 6)),
        teachers=(_small(1, (4, 6, 8)),),
        labels=jnp.eye(3)[jnp.array([0, 1, 2, 0])],
        index=jnp.arange(4),
        step=jnp.int32(0),
        rng=jax.random.key(0),
    )


def _value(distiller, context):
    def value(context):
        return distiller.loss(distiller.init(jax.random.key(0), context), context).value

    return jax.jit(value)(context)


@pytest.mark.parametrize(
    ("preactivation", "student", "teacher"),
    [("teacher", False, True), ("both", True, True), ("none", False, False)],
)
def test_stages_are_taken_before_or_after_the_activation(preactivation, student, teacher):
    context = _small_context()
    distiller = distillers.review(preactivation=preactivation)
    before = _value(distiller, context)

    def negative_changed(outputs):
        """Changes negative responses, which the activation removes."""
        taps = {
            name: jnp.where(x < 0, 2 * x, x) if name.endswith("_pre") else x
            for name, x in outputs.taps.items()
        }
        return Outputs(outputs.logits, taps)

    changed = context.replace(student=negative_changed(context.student))
    assert np.array_equal(before, _value(distiller, changed)) != student
    changed = context.replace(teachers=(negative_changed(context.teacher),))
    assert np.array_equal(before, _value(distiller, changed)) != teacher


def test_given_taps_are_the_levels():
    context = _small_context()
    own = distillers.review(
        taps=("stage1:stage1_pre", "stage2:stage2_pre", "stage3:stage3_pre", "pre_logits")
    )
    np.testing.assert_array_equal(_value(own, context), _value(distillers.review(), context))
    one = distillers.review(taps=("stage2",))
    params = _variables(one, context)["params"]["teacher0"]["review"]
    assert list(params) == ["fusion1"]


def test_the_stem_can_be_a_further_level():
    """The level is the shallowest one, after the ReLU in both networks."""
    context = _small_context()
    stems = [jnp.abs(jax.random.normal(jax.random.key(i), (4, 8, 8, 3 + i))) for i in (0, 1)]
    context = context.replace(
        student=Outputs(context.student.logits, {"stem": stems[0], **context.student.taps}),
        teachers=(Outputs(context.teacher.logits, {"stem": stems[1], **context.teacher.taps}),),
    )
    stages = ("stage1:stage1_pre", "stage2:stage2_pre", "stage3:stage3_pre", "pre_logits")
    with_stem = _value(distillers.review(stem=True), context)
    named = _value(distillers.review(taps=("stem", *stages)), context)
    np.testing.assert_array_equal(with_stem, named)
    variables = _variables(distillers.review(stem=True), context)
    assert len(variables["params"]["teacher0"]["review"]) == 5


def test_the_embedding_counts_less_with_fixed_weights():
    """Of maps of one pixel, 1.125 / 1.875 of the loss remains."""
    context = _small_context()
    one = {"taps": ("pre_logits",)}
    full = _value(distillers.review(**one), context)
    np.testing.assert_allclose(
        _value(distillers.review(weighting="fixed", **one), context), 0.6 * full, rtol=1e-5
    )


def test_the_loss_is_summed_over_levels_and_zero_if_the_teacher_equals_the_fused_maps():
    context = _small_context()
    distiller = distillers.review()
    variables = jax.jit(distiller.init)(jax.random.key(0), context)
    module = Review(targets=((8, 8, 4), (4, 4, 6), (2, 2, 8), (1, 1, 8)))
    features = tuple(context.student.taps[t] for t in ("stage1", "stage2", "stage3", "pre_logits"))
    params = variables["params"]["teacher0"]["review"]
    fused = [x for (x,) in _outputs(module, params, features)]
    taps = context.teacher.taps
    targets = [taps[f"stage{i}_pre"] for i in (1, 2, 3)] + [taps["pre_logits"][:, None, None]]
    expected = sum(losses.hcl(a, b) for a, b in zip(fused, targets, strict=True))
    np.testing.assert_allclose(
        jax.jit(distiller.loss)(variables, context).value, expected, rtol=1e-5
    )
    same = {f"stage{i}_pre": x for i, x in enumerate(fused[:3], 1)}
    same["pre_logits"] = fused[3][:, 0, 0]
    ideal = context.replace(teachers=(Outputs(context.teacher.logits, same),))
    np.testing.assert_allclose(
        jax.jit(distiller.loss)(variables, ideal).value, np.zeros(4), atol=1e-10
    )


def test_the_logits_get_no_gradient():
    """The reason that accuracy stays at chance with this loss alone."""
    context = _small_context()
    distiller = distillers.review()
    variables = jax.jit(distiller.init)(jax.random.key(0), context)

    def total(student):
        return distiller.loss(variables, context.replace(student=student)).value.sum()

    gradient = jax.jit(jax.grad(total))(context.student)
    assert not np.any(gradient.logits)
    assert all(np.any(gradient.taps[t]) for t in ("stage1", "stage2", "stage3", "pre_logits"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "abf"}, "unknown fusion 'abf' of review: choose from none, pairs, sum, attent"),
        ({"residual": "x"}, "unknown residual 'x' of review: choose from mid, output"),
        ({"preactivation": "student"}, "unknown preactivation 'student' of review: choose from"),
        ({"mid_channels": 0}, "mid_channels of review is 0: it must be positive"),
        ({"levels": ("h", "w")}, "method 'review': hcl needs one positive weight per level"),
        ({"weighting": "x"}, "method 'review': unknown weighting 'x' of hcl: choose from in_ord"),
        ({"stem": True, "taps": ("stage1",)}, "review takes stem=True or taps, not both"),
        ({"levels": ("w",), "weights": (1.0,)}, "method 'review': level 'w' is neither a positive"),
    ],
)
def test_mistakes_are_one_line_errors(arguments, message):
    with pytest.raises(UserError) as error:
        distillers.create("review", **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
