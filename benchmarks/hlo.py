"""What a compiled GPU program does in a step, read from its text."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

# Instructions that start no kernel.
_FREE = {
    "parameter", "get-tuple-element", "tuple", "constant", "bitcast", "after-all", "partition-id",
    "all-reduce-done", "copy-done", "async-done",
}  # fmt: skip
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_CONVOLUTIONS = {
    "__cudnn$convForward": "forward", "__cudnn$convBiasActivationForward": "forward",
    "__cudnn$convBackwardInput": "backward", "__cudnn$convBackwardFilter": "backward",
}  # fmt: skip
KINDS = ("forward", "backward", "product", "elementwise", "reduction", "other")


class Instruction(NamedTuple):
    """An instruction of a compiled program.

    Attributes:
      name: within its computation.
      shape: of its result, as text.
      opcode: such as `fusion`.
      operands: the names of its operands.
      text: what stands behind the opcode.
    """

    name: str
    shape: str
    opcode: str
    operands: list[str]
    text: str


class Costs(NamedTuple):
    """What a step costs.

    Attributes:
      kernels: how many it starts, by `KINDS`: convolutions forward and backward, matrix products,
        elementwise ones, reductions, and others (sorts, collectives, copies).
      bytes: that these read and write; of a resident data set the rows of the batch.
    """

    kernels: Mapping[str, int]
    bytes: int

    @property
    def total(self) -> int:
        """All kernels."""
        return sum(self.kernels.values())


def size(shape: str) -> int:
    """Bytes of an array or a tuple, from its type such as `(f32[2,3]{1,0}, u8[0]{0})`."""
    total = 0
    for kind, dimensions in _ARRAY.findall(shape):
        bits = 8 if kind == "pred" else int((re.findall(r"\d+", kind) or ["0"])[0])
        total += math.prod(int(d) for d in dimensions.split(",") if d) * bits // 8
    return total


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program by name, and the name of the one that it starts with."""
    found: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            found[name] = []
            entry = name if header[1] else entry
        elif name and (one := _INSTRUCTION.match(line)):
            found[name].append(Instruction(one[1], one[2], one[3], _operands(one[4]), one[4]))
    return found, entry


def _operands(text: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", text[: text.index(")")])


def costs(text: str) -> Costs:
    """The costs of one step of a program.

    Args:
      text: of the compiled program. If most of its kernels are started in one loop, a turn of it
        is a step; otherwise the whole program is.
    """
    found, entry = computations(text)
    kernels: Counter[str] = Counter()
    moved = 0
    for one, times, shapes in _kernels(found, _step(found, entry)):
        kernels[_kind(one, found)] += times
        moved += times * (_read(one, shapes, found) + size(one.shape))
    return Costs({kind: kernels[kind] for kind in KINDS}, moved)


def _step(found: Mapping[str, list[Instruction]], entry: str) -> str:
    """The computation that is a step."""
    whole = sum(times for _, times, _ in _kernels(found, entry))
    for one in found[entry]:
        if _is_loop(one):
            body = _called(one, "body")
            if 2 * sum(times for _, times, _ in _kernels(found, body, _turns(one))) > whole:
                return body
    return entry


def _kernels(
    found: Mapping[str, list[Instruction]], start: str, times: int = 1
) -> Iterator[tuple[Instruction, int, dict[str, str]]]:
    """The kernels of a computation, how often each is started, and its neighbours' types."""
    shapes = {one.name: one.shape for one in found[start]}
    for one in found[start]:
        if _is_loop(one):
            yield from _kernels(found, _called(one, "body"), times * _turns(one))
        elif one.opcode in ("call", "conditional", "async-start"):
            for name in re.findall(r"%([\w.\-]+)", one.text[one.text.index(")") :]):
                if name in found:
                    yield from _kernels(found, name, times)
        elif one.opcode not in _FREE:
            yield one, times, shapes


def _read(
    one: Instruction, shapes: Mapping[str, str], found: Mapping[str, list[Instruction]]
) -> int:
    """Bytes that a kernel reads; of what it only takes slices or rows of, these."""
    if one.opcode != "fusion":
        return sum(size(shapes.get(name, "")) for name in one.operands)
    inner = found[_called(one, "calls")]
    parameters = {
        int(found_one.text[: found_one.text.index(")")]): found_one
        for found_one in inner
        if found_one.opcode == "parameter"
    }
    return sum(_taken(parameters[i], inner) for i in range(len(one.operands)))


def _taken(one: Instruction, inner: Sequence[Instruction]) -> int:
    users = [user for user in inner if one.name in user.operands]
    parts = [
        _taken(user, inner) if user.opcode == "bitcast" else size(user.shape)
        for user in users
        if user.opcode in ("slice", "dynamic-slice", "gather", "bitcast")
        and user.operands[0] == one.name
    ]
    whole = size(one.shape)
    return min(whole, sum(parts)) if len(parts) == len(users) else whole


def _is_loop(one: Instruction) -> bool:
    return one.opcode == "while"


def _turns(loop: Instruction) -> int:
    """How often a loop's body is run; once where only the running program knows."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
    return int(known[1]) if known else 1


def _called(one: Instruction, what: str) -> str:
    (name,) = re.findall(rf"{what}=%?([\w.\-]+)", one.text)
    return str(name)


def _kind(one: Instruction, found: Mapping[str, list[Instruction]]) -> str:
    if one.opcode == "custom-call":
        target = (re.findall(r'custom_call_target="([^"]+)"', one.text) or [""])[0]
        return _CONVOLUTIONS.get(target, "product" if "cublas" in target else "other")
    if one.opcode != "fusion":
        return {"dot": "product", "reduce": "reduction"}.get(one.opcode, "other")
    inner = set(_opcodes(_called(one, "calls"), found))
    if "dot" in inner:
        return "product"
    if "convolution" in inner or any(code.startswith("__cudnn") for code in inner):
        return "forward"
    return "reduction" if inner & {"reduce", "reduce-window"} else "elementwise"


def _opcodes(name: str, found: Mapping[str, list[Instruction]]) -> Iterator[str]:
    for one in found[name]:
        yield one.opcode
        if one.opcode == "fusion":
            yield from _opcodes(_called(one, "calls"), found)
