"""Pickles from anywhere, looked at before they are read."""

import pickletools
from typing import Any, BinaryIO

from kdjax.types import UserError

# Those are counted again that a pickle refers to again. A state dict has some twenty for each of
# its tensors, a batch of CIFAR three for each of its images.
MOST_VALUES = 10**6


def check_size(file: BinaryIO) -> None:
    """Checks how much the next pickle of a file holds, where the file stays.

    A few bytes can hold a tuple of two equal tuples of two equal tuples, and so on, whose hash
    takes for ever.

    Raises:
      UserError: if it holds more than a million values.
      Exception: of any kind, if it is damaged.
    """
    start, mark = file.tell(), -1
    stack: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            taken = list(opcode.stack_before)
            size = 1
            if pickletools.stackslice in taken:
                while stack[-1] != mark:
                    size += stack.pop()
                stack.pop()
                taken = taken[: taken.index(pickletools.markobject)]
            for _ in taken:
                size += stack.pop()
            if size > MOST_VALUES:
                raise UserError(f"it holds more than {MOST_VALUES:,} values")
            stack += [mark if one is pickletools.markobject else size for one in opcode.stack_after]
    file.seek(start)
