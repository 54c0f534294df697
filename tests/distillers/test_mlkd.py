"""Multi-level logit distillation, as in the paper and as in the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import distillers, losses
from kdjax.types import Context, Outputs, UserError

B, K = 4, 6


def _logits(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, (B, K)), jnp.float32)


def _loss(view=0, **arguments):
    context = Context(
        student=Outputs(_logits(0), {}),
        teachers=(Outputs(_logits(1), {}),),
        labels=jnp.eye(K)[:B],
        index=jnp.arange(B),
        step=jnp.int32(0),
        rng=jax.random.key(0),
        view=view,
    )
    nothing = {"params": {"teacher0": {}}, "state": {"teacher0": {}}}
    return distillers.create("mlkd", **arguments).loss(nothing, context).value


def _terms(temperature, **arguments):
    """KD, class and batch correlations at a temperature."""
    both = (_logits(0), _logits(1))
    return np.array(
        [
            jnp.mean(losses.kd(*both, temperature=temperature, **arguments)),
            losses.class_correlation(*both, temperature=temperature),
            losses.batch_correlation(*both, temperature=temperature),
        ]
    )


@pytest.mark.parametrize("temperature", [4.0, 2.0])
def test_the_code_halves_the_weak_view_and_learns_three_terms_of_the_strong_one(temperature):
    terms = {t: _terms(t) for t in (2.0, 3.0, 4.0, 5.0, 6.0)}
    base = terms[temperature]
    # 4 examples and 6 classes, of which 2 and 3 are not above the median.
    weak = sum([base, *(terms[t] for t in (2.0, 3.0, 5.0, 6.0))]).sum() / 2
    weak += terms[2.0][0] + terms[6.0][0]
    strong = base[0] + terms[3.0][0] + terms[5.0][0]
    np.testing.assert_allclose(_loss(0, temperature=temperature), weak, rtol=1e-5)
    np.testing.assert_allclose(_loss(1, temperature=temperature), strong, rtol=1e-5)


def test_the_paper_sums_all_terms_of_every_view():
    expected = sum(_terms(t).sum() for t in (2.0, 3.0, 4.0, 5.0, 6.0))
    for view in (0, 1):
        np.testing.assert_allclose(_loss(view, form="paper"), expected, rtol=1e-5)


def test_correlations_are_not_of_standardised_logits():
    expected = sum(
        _terms(t)[1:].sum() + _terms(t, standardize=True)[0] for t in (2.0, 3.0, 4.0, 5.0, 6.0)
    )
    np.testing.assert_allclose(_loss(form="paper", standardize=True), expected, rtol=1e-5)


def test_an_unknown_form_is_named():
    with pytest.raises(UserError, match="unknown form 'text': choose from code, paper"):
        distillers.create("mlkd", form="text")
