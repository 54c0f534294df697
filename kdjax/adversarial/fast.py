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


class _Copy(NamedTuple):
    """The copy of the generator during its steps, and the best images so far."""

    params: PyTree
    batch_stats: PyTree
    latents: Array
    opt_state: Any
    total: PyTree
    best: Array
    images: Array
    moments: PyTree


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
    as large.

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
    fast, axis_name = adversary.fast, adversary.axis_name
    assert fast is not None
    whole = len(latents) * parallel.size(axis_name)
    if fast.pool_size % whole:
        raise UserError(f"the pool has {fast.pool_size} images, no multiple of {whole}")
    label_keys, view_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    shares = jax.vmap(jax.random.uniform)(label_keys)
    rate = adversary.generator_learning_rate(state.step)
    # Before the first batch there are no averages.
    decay = jnp.where(state.step > 0, fast.decay, 0.0)
    looks = state.step + 1 >= fast.warmup

    def averaged(moments: PyTree) -> PyTree:
        return jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.kept["moments"], moments
        )

    def update(copy: _Copy, i: Array) -> tuple[_Copy, Metrics]:
        def objective(trained: tuple[PyTree, Array]) -> tuple[Array, Any]:
            params, latents = trained
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
            moments = tuple(tuple((m.mean, m.variance) for m in its) for its in found)
            mixed = [
                [
                    layer._replace(mean=mean, variance=variance)
                    for layer, (mean, variance) in zip(layers, pairs, strict=True)
                ]
                for layers, pairs in zip(found, averaged(moments), strict=True)
            ]
            loss, terms = adversary.objective.loss(
                jnp.where(looks, jnp.mean(distances), 0.0),
                outputs,
                mixed,
                axis_name,
                labels=jnp.floor(shares * outputs[0].logits.shape[-1]).astype(jnp.int32),
            )
            return loss, (terms | {"loss": loss}, images, batch_stats, moments)

        trained = (copy.params, copy.latents)
        (grad, latent_grad), (terms, images, batch_stats, moments) = jax.grad(
            objective, has_aux=True
        )(trained)
        grad, terms, batch_stats = parallel.pmean((grad, terms, batch_stats), axis_name)
        # The mean over devices is the loss, of which each has the gradient of its own latents.
        latent_grad = latent_grad / parallel.size(axis_name)
        better = terms["loss"] < copy.best
        changes, opt_state = adversary.generator_optimizer.update(
            (grad, latent_grad), copy.opt_state, trained
        )
        rates = (jax.tree.map(lambda _: rate, grad), fast.latent_learning_rate)
        params, latents = optax.apply_updates(
            trained, jax.tree.map(lambda change, its: its * change, changes, rates)
        )
        copy = _Copy(
            params,
            batch_stats,
            latents,
            opt_state,
            total=jax.tree.map(jnp.add, copy.total, grad),
            best=jnp.where(better, terms["loss"], copy.best),
            images=jnp.where(better, images, copy.images),
            moments=moments,
        )
        return copy, terms

    params, pool = state.generator["params"], state.kept["pool"]
    copy = _Copy(
        **state.generator,
        latents=latents,
        opt_state=adversary.generator_optimizer.init((params, latents)),
        total=jax.tree.map(jnp.zeros_like, params),
        best=jnp.asarray(jnp.inf),
        images=jnp.zeros((len(latents), *pool.shape[1:])),
        moments=state.kept["moments"],
    )
    copy, terms = parallel.loop(update, copy, jnp.arange(steps))
    params, opt_state = updates.step(
        adversary.generator_optimizer,
        rate * steps,
        copy.total,
        state.generator_opt_state,
        params,
    )
    images = parallel.all_gather(copy.images, axis_name)
    pool = jax.lax.dynamic_update_slice_in_dim(
        pool,
        jnp.floor(images * 255).astype(jnp.uint8),
        state.step * whole % fast.pool_size,
        axis=0,
    )
    state = dataclasses.replace(
        state,
        # The copy's batch statistics are used for pictures only.
        generator={"params": params, "batch_stats": copy.batch_stats},
        generator_opt_state=opt_state,
        kept={"pool": pool, "moments": averaged(copy.moments)},
    )
    metrics = {f"generator/{name}": jnp.mean(value) for name, value in terms.items()}
    return state, metrics | {"generator/gradient_norm": optax.tree.norm(copy.total)}
