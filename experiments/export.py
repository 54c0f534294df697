"""Exports a trained network for use without kdjax, with a model card.

    python -m experiments.export --network=RUN/PHASE --out=DIR [--formats=onnx,safetensors]

The formats are

- `pytorch`, a state dict of the PyTorch implementation that the model follows (`model.pth`; needs
  PyTorch);
- `safetensors`, the same arrays under the same keys (`model.safetensors`);
- `stablehlo`, a program of `jax.export` for CPU and CUDA (`model.stablehlo`; needs
  `pip install 'kdjax[export]'`);
- `onnx`, an ONNX model (`model.onnx`; needs the same).

Without `--formats` all are written whose packages are installed. The last two take uint8 images
[b, h, w, c] for any b, normalise them and return logits. All compute in float32. Every file is read
again and compared with the network on random images; if logits deviate by more than 1e-5 of the
largest one, nothing is written.

A run folder may name a model or data of one's own (`module:name`), which are code. Its module is
imported with `--trust=module`, from the path (the working directory and PYTHONPATH are on it) or
from `--import_from=DIR`.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import cli, own_code
from kdjax.types import UserError

_NETWORK = flags.DEFINE_string("network", "", "RUN/PHASE, the folder of a phase.")
_OUT = flags.DEFINE_string("out", "", "Folder to write to.")
_FORMATS = flags.DEFINE_list("formats", [], "pytorch, safetensors, stablehlo, onnx.")


def main() -> None:
    """Exports what the flags name."""
    from experiments import formats

    if not _NETWORK.value or not _OUT.value:
        missing = "--out" if _NETWORK.value else "--network"
        raise UserError(f"{missing} is missing: give --network=RUN/PHASE --out=DIR")
    own_code.allow()
    for line in formats.export(Path(_NETWORK.value), Path(_OUT.value), _FORMATS.value):
        print(line)
    if not _FORMATS.value:
        for name, form in formats.FORMATS.items():
            if form.missing:
                print(f"left out: {name}, which needs {' and '.join(form.missing)}")


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
