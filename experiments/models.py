"""A table of all models: parameters, multiply-adds and taps.

    python -m experiments.models [NAME ...] [--num_classes=100] [--resolution=32] [--markdown]

Nothing is computed or compiled: shapes and operations are read off the traced forward
pass of one image in evaluation mode. Multiply-adds are those of convolutions and linear
layers, including positions in the padding; batch norm, activations, pooling and biases
are not counted. This is the convention of pytorch-cifar-models, and so of Table 1 of
"Understanding Teacher-Student Architectural Choices", whose MobileNetV3-small is the one
with `stem="cifar"`.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import rich.box
import rich.console
import rich.table

from experiments import cli
from kdjax import UserError, models, networks
from kdjax.models import convolution


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      name: of the model, as for `models.create`.
      parameters: number of trainable parameters.
      multiply_adds: of a forward pass of one image.
      activations: outputs of its convolutions and linear layers for one image.
      taps: shapes for one image, in order of computation; for the generator, its images.
        `stageK_pre` has the shape of `stageK` and is left out, as are `stem_conv` and `stem_pre`.
    """

    name: str
    parameters: int
    multiply_adds: int
    activations: int
    taps: dict[str, tuple[int, ...]]


def count_flops(function: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """Counts the multiply-adds of a function's convolutions and matrix products.

    Args:
      function: traceable by JAX.
      *args: its arguments, or their `jax.ShapeDtypeStruct`s.

    Returns:
      The multiply-adds, and the number of outputs of these operations.
    """
    with convolution.as_defined():
        # A new function, so that JAX does not reuse an earlier trace.
        return _count_flops(jax.make_jaxpr(lambda *args: function(*args))(*args).jaxpr)


def _count_flops(jaxpr: Any) -> tuple[int, int]:
    total = size = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("conv_general_dilated", "dot_general"):
            outputs = math.prod(equation.outvars[0].aval.shape)
            if name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                products = math.prod(shape[axis] for axis in contracted)
            else:
                kernel = equation.invars[1].aval.shape
                features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
                products = math.prod(kernel) // features
            total += outputs * products
            size += outputs
        # The functions inside `jit`, `custom_jvp` and the like, open or closed.
        for value in equation.params.values():
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                inner_total, inner_size = _count_flops(inner_jaxpr)
                total, size = total + inner_total, size + inner_size
    return total, size


def describe(name: str, *, resolution: int = 32, **attributes: Any) -> Row:
    """Measures a model on images of `resolution` x `resolution` pixels.

    Args:
      name: one of `models.names()`.
      resolution: height and width of the images.
      **attributes: of `models.create`; 100 classes unless given.

    Raises:
      UserError: if there is no such model, or if it cannot take images of this size.
    """
    if name == "generator":
        attributes = {"image_shape": (resolution, resolution, 3)}
    else:
        attributes = {"num_classes": 100} | attributes
    model: Any = models.create(name, **attributes)
    example = model.example(resolution)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), example)
    taps: dict[str, tuple[int, ...]] = {}

    def forward(variables: Any, inputs: Any) -> Any:
        outputs = model.apply(variables, inputs)
        # Recorded while tracing, because JAX returns dicts in alphabetical order.
        found = {"images": outputs} if name == "generator" else outputs.taps
        taps.update({k: v.shape[1:] for k, v in found.items() if not k.endswith(("_pre", "_conv"))})
        return outputs

    multiply_adds, activations = count_flops(forward, variables, example)
    return Row(
        name=name,
        multiply_adds=multiply_adds,
        activations=activations,
        parameters=networks.count_parameters(variables),
        taps=taps,
    )


_TITLES = ("model", "parameters", "multiply-adds", "taps")


def _cells(name: str, **options: int) -> tuple[str, str, str, str]:
    models.check_name(name)
    try:
        row = describe(name, **options)
    except UserError as error:
        # Not every model can take images of every size; the table shows why.
        return name, "", "", str(error)
    taps = ", ".join(f"{tap} {'x'.join(map(str, shape))}" for tap, shape in row.taps.items())
    return name, f"{row.parameters:,}", f"{row.multiply_adds / 1e6:.2f} M", taps


def _naturally(name: str) -> list[tuple[str, int]]:
    """A sorting key that puts resnet8 before resnet14."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def main(arguments: Sequence[str]) -> int:
    """Prints the table and returns the exit status, 2 after a mistake of the user."""
    parser = cli.ArgumentParser(
        prog="python -m experiments.models", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all if none are given")
    parser.add_argument("--num_classes", type=int, default=100, help="width of the logits")
    parser.add_argument("--resolution", type=int, default=32, help="height and width of images")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    try:
        options = parser.parse_args(arguments)
        if options.resolution < 1:
            raise UserError(f"--resolution={options.resolution} is not a positive integer")
        if options.num_classes < 1:
            raise UserError(f"--num_classes={options.num_classes} is not a positive integer")
        sizes = {"num_classes": options.num_classes, "resolution": options.resolution}
        names = options.names or sorted(models.names(), key=_naturally)
        lines = [_cells(name, **sizes) for name in names]
    except UserError as error:
        return cli.fail(str(error))
    if options.markdown:
        print(f"| {' | '.join(_TITLES)} |", "|---|---:|---:|---|", sep="\n")
        for name, *rest in lines:
            print(f"| {' | '.join([f'`{name}`', *rest])} |")
    else:
        table = rich.table.Table(box=rich.box.SIMPLE)
        for title in _TITLES:
            table.add_column(title, justify="right" if title in _TITLES[1:3] else "left")
        for cells in lines:
            table.add_row(*cells)
        rich.console.Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
