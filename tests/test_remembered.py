"""Results that are kept for equal arguments."""

import numpy as np
import pytest
from tiny_network import Tiny

from kdjax import Network, train
from kdjax.remembered import remembered


def test_equal_arguments_are_computed_once_and_the_oldest_are_forgotten():
    calls = []

    @remembered(2)
    def square(x, *, plus=0):
        calls.append(x)
        return x * x + plus

    assert [square(2), square(2), square(2, plus=1), square(3), square(2)] == [4, 4, 5, 9, 4]
    assert calls == [2, 2, 3, 2]


def test_what_cannot_be_hashed_is_computed_every_time():
    calls = []

    @remembered(2)
    def total(x):
        calls.append(1)
        return sum(x)

    assert [total([1, 2]), total([1, 2])] == [3, 3]
    assert len(calls) == 2


def test_an_error_is_not_remembered_and_keeps_its_type():
    @remembered(2)
    def fail(x):
        raise TypeError(f"not {x}")

    for _ in range(2):
        with pytest.raises(TypeError, match="not 3"):
            fail(3)


@pytest.mark.parametrize(("width", "times"), [(5, 1), (np.array(5), 3)])
def test_a_network_is_traced_once_if_it_can_be_hashed(monkeypatch, width, times):
    traced = []
    original = Tiny.batch_norm
    monkeypatch.setattr(Tiny, "batch_norm", lambda *args: traced.append(1) or original(*args))
    for _ in range(3):
        network = Network(Tiny(num_classes=3, in_channels=1, width=width), (0.5,), (0.5,))
        outputs, _ = train.abstract_outputs(network, (7, 7, 1))
        assert outputs.logits.shape == (1, 3)
    # For its variables and for its outputs.
    assert len(traced) == 2 * times
