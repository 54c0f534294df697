"""ONNX models of JAX functions, for the operations of which image classifiers consist.

Written here because jax2onnx (0.13 and 0.17) does not convert pooling over [b, h, w, c], and so
no VGG. Another operation is a function and a line in a table below; without them it is an error
that names it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from experiments.onnx_graph import INPUT, Graph, Tensor, Value, is_free, joint_shape
from kdjax.models import convolution
from kdjax.types import UserError

OPSET = 18
# The version of the file format that came with this opset: older runtimes read it, too.
_IR_VERSION = 8
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_OUTPUT = "logits"


def convert(function: Callable[[Any], Any], images: jax.ShapeDtypeStruct) -> Any:
    """Converts a function of a batch of images to an ONNX model that takes any number of them.

    Args:
      function: from images [b, h, w, c] to logits [b, k]; other arrays that it uses become
        constants of the model.
      images: shape and type of a batch of any size.

    Returns:
      An `onnx.ModelProto` with the input `images` and the output `logits`.

    Raises:
      UserError: if the function has an operation that is not converted here.
    """
    import onnx

    (batch,) = jax.export.symbolic_shape("batch")
    free = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    with convolution.as_defined():
        # A new function, so that JAX does not reuse an earlier trace.
        closed = jax.make_jaxpr(lambda x: function(x))(free)
    graph = Graph()
    (logits,) = _apply(graph, closed.jaxpr, closed.consts, [Tensor(INPUT, free.shape)])
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.name_of(logits)], [_OUTPUT]))
    nodes, needed = _needed(graph.nodes)
    constants = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in graph.stored.items()
        if name in needed
    ]
    inputs, outputs = _value_info(INPUT, free), _value_info(_OUTPUT, closed.out_avals[0])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "kdjax", [inputs], [outputs], constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="kdjax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


_Convert = Callable[[Graph, Any, list[Value]], list[Value]]


def _apply(graph: Graph, jaxpr: Any, constants: Sequence[Any], inputs: list[Value]) -> list[Value]:
    """Adds the equations of a jaxpr and returns its outputs."""
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def value(atom: Any) -> Value:
        return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        outputs = _outputs(graph, equation, [value(atom) for atom in equation.invars])
        known |= dict(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _outputs(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    name = equation.primitive.name
    for inner in equation.params.values():
        # The functions inside `jit`, `custom_jvp_call` and the like, closed or open.
        if hasattr(inner, "jaxpr"):
            return _apply(graph, inner.jaxpr, inner.consts, inputs)
        if hasattr(inner, "eqns"):
            return _apply(graph, inner, (), inputs)
    if (folded := _folded(equation, inputs)) is not None:
        return folded
    if name in _ELEMENTWISE:
        return [_elementwise(graph, _ELEMENTWISE[name], inputs)]
    if name not in _CONVERTED:
        raise UserError(
            f"the model has an operation {name!r}, which cannot be exported to ONNX: it can "
            f"have {', '.join(sorted(_ELEMENTWISE | _CONVERTED))}"
        )
    return _CONVERTED[name](graph, equation, inputs)


def _elementwise(graph: Graph, operator: str, inputs: list[Value]) -> Value:
    """Adds an operation that broadcasts its inputs."""
    result = graph.node(operator, inputs, joint_shape(inputs))
    if operator == "LessOrEqual" and isinstance(inputs[0], Tensor) and _is_zero(inputs[1]):
        graph.at_most_zero[result.name] = inputs[0].name
    return result


def _needed(nodes: Sequence[Any]) -> tuple[list[Any], set[str]]:
    """The nodes that the output depends on, and the names of their inputs."""
    kept, needed = [], {_OUTPUT}
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1], needed


def _value_info(name: str, aval: Any) -> Any:
    import onnx

    shape = ["batch" if is_free(side) else side for side in aval.shape]
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def _is_zero(value: Value) -> bool:
    return isinstance(value, np.ndarray) and not value.any()


def _folded(equation: Any, inputs: list[Value]) -> list[Value] | None:
    """The outputs of an equation whose inputs are constants, unless they depend on the batch."""
    arrays = [value for value in inputs if isinstance(value, np.ndarray)]
    name, params = equation.primitive.name, equation.params
    if len(arrays) < len(inputs) or name == "broadcast_in_dim":
        return None
    if name in _ELEMENTWISE or name in ("convert_element_type", "select_n"):
        arrays = list(np.broadcast_arrays(*arrays))
        params = {**params, "sharding": None} if "sharding" in params else params
    elif any(is_free(side) for atom in equation.invars for side in atom.aval.shape):
        return None
    else:
        shapes = [atom.aval.shape for atom in equation.invars]
        arrays = [np.broadcast_to(x, shape) for x, shape in zip(arrays, shapes, strict=True)]
    outputs = equation.primitive.bind(*map(jnp.asarray, arrays), **params)
    several = equation.primitive.multiple_results
    return [np.asarray(output) for output in (outputs if several else [outputs])]


def _refuse(equation: Any, why: str) -> UserError:
    return UserError(f"{equation.primitive.name} cannot be exported to ONNX {why}")


def _identity(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    return inputs


def _cast(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return [graph.node("Cast", inputs, inputs[0].shape, to=kind)]


def _reciprocal_root(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    root = graph.node("Sqrt", inputs, inputs[0].shape)
    return [graph.node("Reciprocal", [root], root.shape)]


def _power(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    exponent = np.array(equation.params.get("y", 2), equation.invars[0].aval.dtype)
    return [graph.node("Pow", [*inputs, exponent], inputs[0].shape)]


def _exponential_minus_one(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    power = graph.node("Exp", inputs, inputs[0].shape)
    return [graph.node("Sub", [power, _one(equation)], power.shape)]


def _logarithm_of_one_plus(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    more = graph.node("Add", [*inputs, _one(equation)], inputs[0].shape)
    return [graph.node("Log", [more], more.shape)]


def _one(equation: Any) -> np.ndarray:
    return np.ones((), equation.invars[0].aval.dtype)


def _different(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    equal = graph.node("Equal", inputs, joint_shape(inputs))
    return [graph.node("Not", [equal], equal.shape)]


def _clamp(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    low, x, high = inputs
    raised = graph.node("Max", [x, low], joint_shape([x, low]))
    return [graph.node("Min", [raised, high], joint_shape([raised, high]))]


def _select(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    condition, *cases = inputs
    if len(cases) != 2 or equation.invars[0].aval.dtype != np.bool_:
        raise _refuse(equation, "unless it chooses between two values")
    otherwise, then = cases
    if isinstance(condition, Tensor) and isinstance(otherwise, Tensor) and _is_zero(then):
        # where(x <= 0, 0, x), as `kdjax.models.layers.relu` is written.
        compared = graph.at_most_zero.get(condition.name)
        if compared == otherwise.name:
            return [graph.node("Relu", [otherwise], otherwise.shape)]
    chosen = [condition, then, otherwise]
    return [graph.node("Where", chosen, joint_shape(chosen))]


def _broadcast(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    (x,), axes = inputs, equation.params["broadcast_dimensions"]
    rank = len(equation.params["shape"])
    if not x.shape:
        return [x]
    shape: list[Any] = [1] * rank
    for axis, side in zip(axes, x.shape, strict=True):
        shape[axis] = side
    if isinstance(x, np.ndarray):
        return [x.reshape(shape)]
    added = [axis for axis in range(rank) if axis not in axes]
    if not added:
        return [x]
    return [graph.node("Unsqueeze", [x, np.array(added, np.int64)], shape)]


def _reshape(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    shape = equation.outvars[0].aval.shape
    if sum(map(is_free, shape)) > 1:
        raise _refuse(equation, f"to {shape}: one side at most may depend on the batch")
    target = np.array([-1 if is_free(side) else side for side in shape], np.int64)
    return [graph.node("Reshape", [x, target], shape)]


def _transpose(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    return [graph.transposed(x, equation.params["permutation"])]


def _concatenate(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    parts = [
        graph.whole(x, atom.aval.shape) for x, atom in zip(inputs, equation.invars, strict=True)
    ]
    shape = equation.outvars[0].aval.shape
    return [graph.node("Concat", parts, shape, axis=equation.params["dimension"])]


def _split(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    sizes = np.array(equation.params["sizes"], np.int64)
    shapes = [output.aval.shape for output in equation.outvars]
    return [*graph.split_node("Split", [x, sizes], shapes, axis=equation.params["axis"])]


def _slice(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    x, params = graph.whole(inputs[0], before), equation.params
    if before == after:
        return [x]
    # The batch, which is not cut, is left out.
    axes = [axis for axis in range(len(before)) if not is_free(before[axis])]
    strides = params["strides"] or [1] * len(before)
    places = [
        np.array([values[axis] for axis in axes], np.int64)
        for values in (params["start_indices"], params["limit_indices"])
    ]
    steps = np.array([strides[axis] for axis in axes], np.int64)
    return [graph.node("Slice", [x, *places, np.array(axes, np.int64), steps], after)]


def _pad(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    low, high, interior = zip(*equation.params["padding_config"], strict=True)
    if any(interior):
        raise _refuse(equation, "between elements")
    pads = np.array([*low, *high], np.int64)
    return [graph.node("Pad", [x, pads, inputs[1]], equation.outvars[0].aval.shape)]


def _reduce(operator: str) -> _Convert:
    def convert(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
        x = graph.whole(inputs[0], equation.invars[0].aval.shape)
        axes = np.array(equation.params["axes"], np.int64)
        return [graph.node(operator, [x, axes], equation.outvars[0].aval.shape, keepdims=0)]

    return convert


def _product(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    shapes = [atom.aval.shape for atom in equation.invars]
    a, b = (graph.whole(x, shape) for x, shape in zip(inputs, shapes, strict=True))
    contracted, batched = equation.params["dimension_numbers"]
    after = equation.outvars[0].aval.shape
    if [*map(list, contracted)] == [[1], [0]] and len(shapes[0]) == len(shapes[1]) == 2:
        return [graph.node("MatMul", [a, b], after)]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names = [[""] * len(shape) for shape in shapes]
    for pairs in (batched, contracted):
        for i, j in zip(*pairs, strict=True):
            names[0][i] = names[1][j] = next(letters)
    names = [[name or next(letters) for name in axes] for axes in names]
    bound = {names[0][i] for i in (*batched[0], *contracted[0])}
    free = [name for axes in names for name in axes if name not in bound]
    left, right = ("".join(axes) for axes in names)
    result = "".join([*(names[0][i] for i in batched[0]), *free])
    return [graph.node("Einsum", [a, b], after, equation=f"{left},{right}->{result}")]


def _convolution(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    params = equation.params
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise _refuse(equation, "if it is transposed")
    images, kernel = (
        graph.whole(x, atom.aval.shape) for x, atom in zip(inputs, equation.invars, strict=True)
    )
    layout, shape = params["dimension_numbers"], equation.outvars[0].aval.shape
    low, high = zip(*params["padding"], strict=True)
    result = graph.node(
        "Conv",
        [graph.transposed(images, layout.lhs_spec), graph.transposed(kernel, layout.rhs_spec)],
        [shape[axis] for axis in layout.out_spec],
        strides=list(params["window_strides"]),
        pads=[*low, *high],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return [graph.transposed(result, np.argsort(layout.out_spec).tolist())]


def _pool(operator: str) -> _Convert:
    def convert(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
        params = equation.params
        window, strides, padding = (
            params[key] for key in ("window_dimensions", "window_strides", "padding")
        )
        dilations = (*params["base_dilation"], *params["window_dilation"])
        ends = [(window[i], strides[i], tuple(padding[i])) for i in (0, -1)]
        if len(window) != 4 or set(dilations) != {1} or set(ends) != {(1, 1, (0, 0))}:
            raise _refuse(equation, "except over height and width of [b, h, w, c]")
        x = graph.whole(inputs[0], equation.invars[0].aval.shape)
        shape = equation.outvars[0].aval.shape
        low, high = zip(*padding[1:3], strict=True)
        attributes = {"count_include_pad": 1} if operator == "AveragePool" else {}
        pooled = graph.node(
            operator,
            [graph.transposed(x, _TO_NCHW)],
            [shape[axis] for axis in _TO_NCHW],
            kernel_shape=list(window[1:3]),
            strides=list(strides[1:3]),
            pads=[*low, *high],
            **attributes,
        )
        if operator == "AveragePool":
            count = np.array(math.prod(window), equation.invars[0].aval.dtype)
            pooled = graph.node("Mul", [pooled, count], pooled.shape)
        return [graph.transposed(pooled, _TO_NHWC)]

    return convert


_ELEMENTWISE = {
    "abs": "Abs", "add": "Add", "and": "And", "ceil": "Ceil", "cos": "Cos", "div": "Div",
    "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less",
    "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not", "or": "Or",
    "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
_CONVERTED: dict[str, _Convert] = {
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "copy": _identity,
    "dot_general": _product,
    "expm1": _exponential_minus_one,
    "integer_pow": _power,
    "log1p": _logarithm_of_one_plus,
    "ne": _different,
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "reshape": _reshape,
    "rsqrt": _reciprocal_root,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _power,
    "squeeze": _reshape,
    "stop_gradient": _identity,
    "transpose": _transpose,
}
