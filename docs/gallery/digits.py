"""What the notebooks of the gallery share: the digits, and the training loop of `library.md`."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

import kdjax
from kdjax import distillers, host, metrics, models, optimizers, parallel, schedules, train
from kdjax.data import batches, sources, views

# Before JAX is first used: right sums, and one virtual device per core.
host.set_up_host()
# The notebooks train the same networks, and a program is compiled once for all of them.
host.set_up_cache(str(Path.home() / ".cache" / "kdjax"))

BATCH = 64
DATA = sources.load("digits", resize=16)
MEAN, STD = map(tuple, sources.channel_statistics(DATA.train))
# Four images of each class, which is all that most students here learn from.
FEW = np.concatenate([np.flatnonzero(DATA.train.labels == label)[:4] for label in range(10)])


class Trained(NamedTuple):
    """A network with its variables."""

    network: kdjax.Network
    variables: kdjax.types.Variables


def fit(
    model: str,
    objective: kdjax.Distiller,
    *,
    teacher: Trained | None = None,
    examples: np.ndarray | None = None,
    steps: int = 200,
    data: sources.Dataset = DATA,
    **view: Any,
) -> Trained:
    """Trains a network of kdjax on the digits.

    Args:
      model: one of `kdjax.models.names()`.
      objective: of the training.
      teacher: whose outputs the objective has, if it needs a teacher.
      examples: positions of the training images to learn from; all by default.
      steps: of 64 images.
      data: the digits, at another size than 16x16.
      **view: how images are augmented, as for `kdjax.data.views.make_views`.
    """
    module = models.create(model, num_classes=10, in_channels=1, axis_name=parallel.AXIS)
    network = kdjax.Network(module, *map(tuple, sources.channel_statistics(data.train)))
    side = data.train.images.shape[1]
    rate = schedules.create("cosine", 0.1, total_steps=steps, steps_per_epoch=1)
    common: dict[str, Any] = {
        "student": network,
        "distiller": objective,
        "optimizer": optimizers.create("sgd", rate, nesterov=True, weight_decay=5e-4),
        "teachers": (teacher.network,) if teacher else (),
    }
    teacher_variables = (teacher.variables,) if teacher else ()
    devices = parallel.Devices.dividing(BATCH)
    # A mirrored digit is another digit or none.
    given = {"num_classes": 10, "image_size": side, "padding": side // 8, "flip": False} | view
    step = devices.map(
        train.make_train_step(views=views.make_views(**given), axis_name=parallel.AXIS, **common),
        in_axes=(None, None, None, 0, None),
        donate_argnums=0,
    )
    key = jax.random.key(0)
    init = functools.partial(
        train.init_state,
        image_shape=data.train.images.shape[1:],
        num_classes=10,
        batch_size=BATCH // len(devices),
        **common,
    )
    state = jax.jit(init, compiler_options=parallel.fast_compile_options())(
        key, teacher_variables=teacher_variables
    )
    inputs = (state, kdjax.TeacherInputs(teacher_variables), batches.resident(data.train))
    state, teachers, images = map(devices.replicate, inputs)
    examples = np.arange(len(data.train)) if examples is None else examples
    for i in range(steps):
        index = examples[batches.positions(len(examples), BATCH, seed=0, step=i)].astype(np.int32)
        batch = {"index": devices.shard(index[None], axis=1)}
        state, found = step(state, teachers, images, batch, key)
        parallel.wait_on_cpu(found)
    return Trained(network, jax.device_get(state.eval_variables))


@functools.cache
def a_teacher() -> Trained:
    """`wrn_16_1`, trained with the labels of all images."""
    return fit("wrn_16_1", distillers.cross_entropy())


def predict(trained: Trained, split: sources.Split = DATA.test) -> jax.Array:
    """The logits of a network for the images of a split, [n, 10]."""
    return jax.jit(lambda images: trained.network.evaluate(trained.variables, images).logits)(
        views.as_pixels(jnp.asarray(split.images))
    )


def compare(**students: Trained) -> None:
    """Prints accuracy and fidelity to `a_teacher` on the test images."""
    taught, labels = predict(a_teacher()), jnp.asarray(DATA.test.labels)
    print(f"{'':16}accuracy  agreement  KL to teacher")
    for name, student in students.items():
        logits = predict(student)
        values = (
            metrics.accuracy(logits, labels),
            metrics.agreement(logits, taught),
            metrics.predictive_kl(logits, taught),
        )
        print(f"{name:16}" + "{:8.2%}   {:8.2%}   {:12.4f}".format(*map(float, values)))


def show(images: Any, titles: list[str] | None = None, columns: int = 10) -> None:
    """Draws grey images, [n, h, w, 1] or [n, h, w], pixels in [0, 1]."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 0.8, rows * 0.95), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, np.asarray(images), strict=False)):
        axis.imshow(image.squeeze(), cmap="gray_r", vmin=0, vmax=1)
        if titles:
            axis.set_title(titles[i], fontsize=8)
    figure.tight_layout()
    plt.show()
