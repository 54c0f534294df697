import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import methods
from experiments.length import Length, StepLimit
from experiments.objective import make_objective
from kdjax.types import Context, Outputs, UserError

LENGTH = Length(StepLimit(240), 10.0)


def _context(step):
    student, teacher = jax.random.normal(jax.random.key(0), (2, 4, 5))
    return Context(
        student=Outputs(student, {}),
        teachers=(Outputs(teacher, {}),),
        labels=jnp.eye(5)[:4],
        index=jnp.arange(4),
        step=jnp.int32(step),
        rng=jax.random.key(1),
    )


def test_the_recipe_of_ctkd_reverses_the_gradient_more_and_more_over_a_24th_of_the_run():
    """The schedule is one of an argument, and the weight is constant."""
    distiller = make_objective(methods.objective(["ctkd"]), LENGTH)
    variables = distiller.init(jax.random.key(0), _context(0))

    @jax.jit
    def slope(step):
        def loss(params):
            return distiller.loss(variables | {"params": params}, _context(step)).value

        value, gradient = jax.value_and_grad(loss)(variables["params"])
        return value, gradient["ctkd"]["teacher0"]["theta"]

    values, slopes = zip(*map(slope, (0, 5, 10, 200)), strict=True)
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    np.testing.assert_allclose(np.array(slopes) / slopes[-1], [0, 0.5, 1, 1], atol=1e-6)
    assert slopes[-1] != 0


def test_a_schedule_of_what_a_term_does_not_give_is_one_line():
    schedule = {"name": "constant", "of": "temperature"}
    with pytest.raises(UserError, match="the schedule of term 'kd' is of 'temperature', which"):
        make_objective({"kd": {"schedule": schedule}}, LENGTH)
