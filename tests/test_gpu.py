"""On a machine with a GPU: `python -m pytest -m gpu`. All others skip this."""

import glob
import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not glob.glob("/dev/nvidia[0-9]*"), reason="there is no GPU"),
]
CONFIGS = {
    "kd": ("configs/distill.py:teacher=resnet14,student=resnet8", "kd"),
    "crd": ("configs/distill.py:teacher=resnet14,student=resnet8,methods=crd", "crd"),
    "function_matching": ("configs/function_matching.py", "function_matching"),
    "zero_shot": ("configs/zero_shot.py", "zero_shot"),
}


def figures(config, folder, platform):
    """The figures of a debug run on a platform, and its device."""
    hidden = ("JAX_PLATFORMS", "XLA_FLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["JAX_PLATFORMS"] = platform
    # Sums in full precision, so that the platforms differ by rounding alone.
    environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    command = [
        sys.executable, "-m", "experiments.main", f"--config={config}", "--config.debug=True",
        f"--workdir={folder}", "--config.devices=1",
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    return summary["phases"], summary["device"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_computes_what_the_cpu_does(tmp_path, name):
    config, phase = CONFIGS[name]
    (expected, _), (found, device) = (
        figures(config, tmp_path / platform, platform) for platform in ("cpu", "cuda")
    )
    assert not device.startswith("cpu")
    for key in ("nll", "kl"):
        assert found[phase]["test"][key] == pytest.approx(expected[phase]["test"][key], rel=2e-2)
