"""The graph of an ONNX model under construction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# What the input of the model is called, a batch of images.
INPUT = "images"


class Tensor(NamedTuple):
    """A value that the model computes.

    Attributes:
      name: in the model.
      shape: there. It may have 1 or fewer axes where the value in the jaxpr is broadcast, as
        element-wise operations of ONNX broadcast by themselves.
    """

    name: str
    shape: tuple[Any, ...]


# A value that the model computes, or a constant, whose shape may be smaller for the same reason.
Value = Tensor | np.ndarray


class Graph:
    """The nodes and constants of a model under construction.

    Attributes:
      nodes: in order of computation.
      stored: constants by name.
    """

    def __init__(self) -> None:
        """Starts without nodes."""
        self.nodes: list[Any] = []
        self.stored: dict[str, np.ndarray] = {}
        # What is compared in `x <= 0`, by the name of the result.
        self.at_most_zero: dict[str, str] = {}

    def node(
        self, operator: str, inputs: Sequence[Value], shape: Sequence[Any], **attributes: Any
    ) -> Tensor:
        """Adds a node with one output of the given shape."""
        return self.split_node(operator, inputs, [shape], **attributes)[0]

    def split_node(
        self,
        operator: str,
        inputs: Sequence[Value],
        shapes: Sequence[Sequence[Any]],
        **attributes: Any,
    ) -> list[Tensor]:
        """Adds a node with an output of each of the given shapes."""
        import onnx

        first = f"{operator.lower()}_{len(self.nodes)}"
        names = [f"{first}_{i}" for i in range(len(shapes))] if len(shapes) > 1 else [first]
        self.nodes.append(
            onnx.helper.make_node(operator, [self.name_of(x) for x in inputs], names, **attributes)
        )
        return [Tensor(name, tuple(shape)) for name, shape in zip(names, shapes, strict=True)]

    def name_of(self, value: Value) -> str:
        """The name of a value in the model, where a constant is stored at its first use."""
        if isinstance(value, Tensor):
            return value.name
        name = f"constant_{len(self.stored)}"
        self.stored[name] = np.ascontiguousarray(value)
        return name

    def whole(self, value: Value, shape: Sequence[Any]) -> Value:
        """A value broadcast to the shape that it has in the jaxpr."""
        if tuple(value.shape) == tuple(shape):
            return value
        if not any(map(is_free, shape)):
            if isinstance(value, np.ndarray):
                return np.broadcast_to(value, shape)
            return self.node("Expand", [value, np.array(shape, np.int64)], shape)
        batch = self.node("Shape", [Tensor(INPUT, ())], (1,), start=0, end=1)
        sides = [batch if is_free(side) else np.array([side], np.int64) for side in shape]
        target = self.node("Concat", sides, (len(sides),), axis=0)
        return self.node("Expand", [value, target], shape)

    def transposed(self, value: Value, axes: Sequence[int]) -> Value:
        """A value with its axes permuted."""
        if isinstance(value, np.ndarray):
            return value.transpose(axes)
        shape = [value.shape[axis] for axis in axes]
        return self.node("Transpose", [value], shape, perm=list(axes))


def is_free(side: Any) -> bool:
    """Whether a side depends on the number of images."""
    return not isinstance(side, (int, np.integer))


def joint_shape(values: Sequence[Value]) -> tuple[Any, ...]:
    """The shape to which element-wise operations of ONNX broadcast."""
    rank = max(len(value.shape) for value in values)
    sides: list[Any] = [1] * rank
    for value in values:
        for axis, side in enumerate(value.shape, rank - len(value.shape)):
            if is_free(side) or side != 1:
                sides[axis] = side
    return tuple(sides)
