"""Images made by a generator that learns to be adapted quickly: Fast (Fang et al. 2022).

For each batch of images a copy of the generator and the latents take a few steps together. The
images with the smallest loss go into a pool, from which the student learns, and the generator is
updated by the sum of the copy's gradients (first-order MAML), so that the next copy starts from a
better place.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdjax import parallel, updates
from kdjax.adversarial.moments import evaluate_with_moments
from kdjax.adversarial.state import AdversarialState
from kdjax.data import augment
from kdjax.types import Array, Metrics, Network, PyTree, UserError, Variables

if TYPE_CHECKING:
    from kdjax.adversarial.adversary import Adversary


class Fast(NamedTuple):
    """Settings of Fast; the defaults are those of zju-vipa/Fast-Datafree for ten steps.

    Attributes:
      pool_size: images that are kept, a multiple of the batch; then new ones replace the oldest.
      latent_learning_rate: of the latents.
      warmup: the first pseudo-batch, counted from 1, whose generator looks at the student.
      decay: of the moving averages of the moments at the teacher's batch norms, with which those of
        a batch are averaged in the generator's objective.
      padding: of the random crops that all networks see, in pixels.
      flip: whether they see images mirrored with probability one half.
    """

    pool_size: int
    latent_learning_rate: float = 0.01
    warmup: int = 20
    decay: float = 0.9
    padding: int = 4
    flip: bool = True

    def init(
        self,
        image_shape: tuple[int, int, int],
        teachers: Sequence[Network],
    ) -> PyTree:
        """What is kept from pseudo-batch to pseudo-batch: an empty pool, and moments.

        Args:
          image_shape: (h, w, c).
          teachers: in order.
        """

        def moments(teacher: Network) -> PyTree:
            images = jnp.zeros((1, *image_shape))
            variables = teacher.init(jax.random.key(0), images)
            layers = evaluate_with_moments(teacher, variables, images)[1]
            return tuple((layer.mean, layer.variance) for layer in layers)

        return {
            "pool": jnp.zeros((self.pool_size, *image_shape), jnp.uint8),
            "moments": jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                tuple(jax.eval_shape(lambda t=teacher: moments(t)) for teacher in teachers),
            ),
        }

    def see(self, keys: Array, images: Array) -> Array:
        """Images [b, h, w, c] as networks see them: cropped, perhaps mirrored; by keys [b]."""

        def one(key: Array, image: Array) -> Array:
            crop_key, flip_key = jax.random.split(key)
            image = augment.padded_crop(crop_key, image, self.padding)
            return augment.flip(flip_key, image) if self.flip else image

        return jax.vmap(one)(keys, images)

    def draw(self, kept: PyTree, keys: Array, count: Array) -> Array:
        """An image of the pool for each key as networks see it, [b, h, w, c] in [0, 1].

        The published code goes through the shuffled pool; here images are drawn independently.

        Args:
          kept: from `init` or `synthesize`.
          keys: [b].
          count: int32 [], images that were put into the pool so far.
        """
        choice_keys, view_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        there = jnp.minimum(count, self.pool_size)
        choices = jax.vmap(lambda key: jax.random.randint(key, (), 0, there))(choice_keys)
        return self.see(view_keys, kept["pool"][choices].astype(jnp.float32) / 255)


class Copy(NamedTuple):
    """The copy of the generator during its steps, and the best images so far.

    Attributes:
      params: of the copy.
      batch_stats: of the copy.
      latents: [b, latent_dim], which take steps, too.
      opt_state: of `params`.
      latent_opt_state: of `latents`.
      total: the sum of the gradients of `params`.
      best: [], the smallest loss.
      images: [b, h, w, c], which have it.
      moments: of the last images, as in the state's `kept`.
    """

    params: PyTree
    batch_stats: PyTree
    latents: Array
    opt_state: Any
    latent_opt_state: Any
    total: PyTree
    best: Array
    images: Array
    moments: PyTree


#: For each part of a `Copy` the axis of the shards of a batch, or None if it is replicated.
COPY_AXES = Copy(None, None, 0, None, 0, None, None, 0, None)  # type: ignore[arg-type]


def synthesize(
    adversary: "Adversary",
    state: AdversarialState,
    teacher_variables: Sequence[Variables],
    latents: Array,
    keys: Array,
    *,
    steps: int,
) -> tuple[AdversarialState, Metrics]:
    """Makes a batch of images for the pool, and updates the generator.

    The rate of the copy is that of the generator's schedule, and the generator's own `steps` times
    as large. It is `begin`, as many times `advance`, and `finish`.

    Args:
      adversary: the networks; it has `fast`.
      state: its `kept` is that of `Fast.init`.
      teacher_variables: of each teacher.
      latents: [b, latent_dim], from which the copy starts.
      keys: [b], for labels and crops.
      steps: of the copy.

    Returns:
      The state, and metrics averaged over the steps.

    Raises:
      UserError: if the size of the pool is no multiple of the batch.
    """

    def update(copy: Copy, i: Array) -> tuple[Copy, Metrics]:
        return advance(adversary, state, teacher_variables, copy, keys, i)

    copy, terms = parallel.loop(update, begin(adversary, state, latents), jnp.arange(steps))
    state, metrics = finish(adversary, state, copy, jnp.asarray(steps))
    return state, metrics | jax.tree.map(jnp.mean, terms)


def begin(adversary: "Adversary", state: AdversarialState, latents: Array) -> Copy:
    """The copy before its first step; arguments and errors as for `synthesize`."""
    pool = state.kept["pool"]
    whole = len(latents) * parallel.size(adversary.axis_name)
    if len(pool) % whole:
        raise UserError(f"the pool has {len(pool)} images, no multiple of {whole}")
    params, optimizer = state.generator["params"], adversary.generator_optimizer
    return Copy(
        **state.generator,
        latents=latents,
        opt_state=optimizer.init(params),
        latent_opt_state=optimizer.init(latents),
        total=jax.tree.map(jnp.zeros_like, params),
        best=jnp.asarray(jnp.inf),
        images=jnp.zeros((len(latents), *pool.shape[1:])),
        moments=state.kept["moments"],
    )


def advance(
    adversary: "Adversary",
    state: AdversarialState,
    teacher_variables: Sequence[Variables],
    copy: Copy,
    keys: Array,
    i: Array,
) -> tuple[Copy, Metrics]:
    """The copy's i-th step (int32 []); other arguments as for `synthesize`."""
    fast, axis_name = adversary.fast, adversary.axis_name
    assert fast is not None
    label_keys, view_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    shares = jax.vmap(jax.random.uniform)(label_keys)

    def objective(params: PyTree, latents: Array) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": copy.batch_stats}
        images, batch_stats = adversary.images(variables, latents)
        its_keys = jax.vmap(jax.random.fold_in, (0, None))(view_keys, i)
        seen = fast.see(its_keys, images)
        outputs, found = zip(
            *(
                evaluate_with_moments(teacher, its, seen, axis_name)
                for teacher, its in zip(adversary.teachers, teacher_variables, strict=True)
            ),
            strict=True,
        )
        student = adversary.student.evaluate(state.variables, seen)
        distances = adversary.distances(student, outputs, where_they_agree=True)
        looks = state.step + 1 >= fast.warmup
        moments = tuple(tuple((m.mean, m.variance) for m in its) for its in found)
        mixed = [
            [
                layer._replace(mean=mean, variance=variance)
                for layer, (mean, variance) in zip(layers, pairs, strict=True)
            ]
            for layers, pairs in zip(found, _averaged(fast, state, moments), strict=True)
        ]
        loss, terms = adversary.objective.loss(
            jnp.where(looks, jnp.mean(distances), 0.0),
            outputs,
            mixed,
            axis_name,
            labels=jnp.floor(shares * outputs[0].logits.shape[-1]).astype(jnp.int32),
        )
        return loss, (terms | {"loss": loss}, images, batch_stats, moments)

    (grad, latent_grad), (terms, images, batch_stats, moments) = jax.grad(
        objective, argnums=(0, 1), has_aux=True
    )(copy.params, copy.latents)
    grad, terms, batch_stats = parallel.pmean((grad, terms, batch_stats), axis_name)
    # The mean over devices is the loss, of which each has the gradient of its own latents.
    latent_grad = latent_grad / parallel.size(axis_name)
    better = terms["loss"] < copy.best
    optimizer, rate = adversary.generator_optimizer, adversary.generator_learning_rate(state.step)
    params, opt_state = updates.step(optimizer, rate, grad, copy.opt_state, copy.params)
    latents, latent_opt_state = updates.step(
        optimizer, fast.latent_learning_rate, latent_grad, copy.latent_opt_state, copy.latents
    )
    copy = Copy(
        params,
        batch_stats,
        latents,
        opt_state,
        latent_opt_state,
        total=jax.tree.map(jnp.add, copy.total, grad),
        best=jnp.where(better, terms["loss"], copy.best),
        images=jnp.where(better, images, copy.images),
        moments=moments,
    )
    return copy, {f"generator/{name}": value for name, value in terms.items()}


def finish(
    adversary: "Adversary", state: AdversarialState, copy: Copy, steps: Array
) -> tuple[AdversarialState, Metrics]:
    """The state with the copy's images and the updated generator, and the gradient's norm.

    Args:
      adversary: as for `synthesize`.
      state: likewise.
      copy: after its last step.
      steps: int32 [], how many it took.
    """
    fast = adversary.fast
    assert fast is not None
    params, opt_state = updates.step(
        adversary.generator_optimizer,
        adversary.generator_learning_rate(state.step) * steps,
        copy.total,
        state.generator_opt_state,
        state.generator["params"],
    )
    images = parallel.all_gather(copy.images, adversary.axis_name)
    pool = jax.lax.dynamic_update_slice_in_dim(
        state.kept["pool"],
        jnp.floor(images * 255).astype(jnp.uint8),
        state.step * len(images) % len(state.kept["pool"]),
        axis=0,
    )
    state = dataclasses.replace(
        state,
        # The copy's batch statistics are used for pictures only.
        generator={"params": params, "batch_stats": copy.batch_stats},
        generator_opt_state=opt_state,
        kept={"pool": pool, "moments": _averaged(fast, state, copy.moments)},
    )
    return state, {"generator/gradient_norm": optax.tree.norm(copy.total)}


def _averaged(fast: Fast, state: AdversarialState, moments: PyTree) -> PyTree:
    """Moments of a batch, averaged with those of the batches before it if there are any."""
    decay = jnp.where(state.step > 0, fast.decay, 0.0)
    return jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.kept["moments"], moments
    )
