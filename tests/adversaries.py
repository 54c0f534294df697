"""Networks small enough to train each other without data in a test."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import adversarial, distillers, losses, optimizers, parallel, schedules
from kdjax.types import Distiller, MethodLoss, Network, Outputs

SHAPE, CLASSES, BATCH, BETA = (8, 8, 1), 4, 8, 250.0
MEAN, STD = (0.4,), (0.3,)
STAGES = ("stage1", "stage2")


class Tiny(nn.Module):
    """Two stages with batch norm, small enough to differentiate without compiling."""

    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train=False):
        taps, x = {}, images
        for stage in STAGES:
            x = nn.Conv(self.width, (3, 3), strides=(2, 2))(x)
            taps[stage] = x
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x))
        return Outputs(nn.Dense(CLASSES)(x.mean((1, 2))), taps)


def attention(*, weight=1.0):
    """Attention transfer from the first teacher, on both stages."""

    def loss(variables, context):
        pairs = ((context.student.taps[s], context.teachers[0].taps[s]) for s in STAGES)
        value = sum(losses.attention_transfer(*pair) for pair in pairs)
        return MethodLoss(value, variables["state"], {})

    return Distiller(lambda rng, context: {"params": {}, "state": {}}, loss)


class Sketch(nn.Module):
    """A generator with two layers."""

    latent_dim: int = 10
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latents, train=False):
        x = nn.Dense(8 * 8 * 2)(latents).reshape(-1, 8, 8, 2)
        x = nn.Conv(1, (3, 3))(nn.leaky_relu(x, 0.2))
        return nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x)


class Pixels(Sketch):
    """A generator of pixels."""

    sigmoid: bool = True

    @nn.compact
    def __call__(self, latents, train=False):
        x = nn.Dense(8 * 8 * 2)(latents).reshape(-1, 8, 8, 2)
        x = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x)
        return nn.sigmoid(nn.Conv(1, (3, 3))(nn.leaky_relu(x, 0.2)))


def network(width, axis_name=None):
    return Network(Tiny(width, axis_name), MEAN, STD)


def variables_of(net, seed):
    return net.init(jax.random.key(seed), jnp.zeros((1, *SHAPE)))


def adversary(count=2, teachers=(8,), adam=True, **options):
    axis = parallel.AXIS if count else None
    rate = functools.partial(schedules.create, "cosine", total_steps=8, steps_per_epoch=1)
    optimizer = optimizers.create(
        "adam" if adam else "sgd", 1.0, momentum=0.9 if adam else 0.0, grad_clip_norm=5.0
    )
    defaults = dict(
        student=network(4, axis),
        teachers=tuple(map(network, teachers)),
        generator=Sketch(axis_name=axis),
        distance="kl",
        distiller=distillers.weighted_sum(at=(BETA, attention())),
        optimizer=optimizer,
        generator_optimizer=optimizer,
        learning_rate=rate(peak_value=2e-3),
        generator_learning_rate=rate(peak_value=1e-3),
        axis_name=axis,
    )
    return adversarial.Adversary(**(defaults | options))


class Run:
    """An adversary and its compiled step on `count` devices."""

    def __init__(self, count=2, seed=0, **options):
        self.adversary = adversary(count, **options)
        self.teachers = tuple(variables_of(t, 7 + i) for i, t in enumerate(self.adversary.teachers))
        shapes = dict(image_shape=SHAPE, num_classes=CLASSES, batch_size=BATCH)
        init = jax.jit(functools.partial(self.adversary.init, **shapes))
        # Kept on the host, because the step donates its input.
        self.state = jax.device_get(init(jax.random.key(seed), teacher_variables=self.teachers))
        self.devices = parallel.Devices.dividing(BATCH, count)
        self.step = adversarial.make_step(self.adversary, self.devices)
        self.key = jax.random.key(3)

    def __call__(self, batches, generator_steps=1, student_steps=2):
        replicate = self.devices.replicate
        indices = np.broadcast_to(np.arange(BATCH, dtype=np.int32), (batches, BATCH))
        state, metrics = self.step(
            replicate(self.state),
            replicate(self.teachers),
            self.devices.shard(indices, axis=1),
            replicate(self.key),
            generator_steps=generator_steps,
            student_steps=student_steps,
        )
        return jax.device_get(state), jax.device_get(metrics)
