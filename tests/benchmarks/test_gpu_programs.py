"""Programs for a GPU that is not there."""

import importlib.util
import json
import subprocess
import sys

import pytest


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="compiling for GPUs needs pip install 'kdjax[cuda12]'",
)
@pytest.mark.parametrize("target", ["h100", "a100"])
def test_programs_compile_and_start_few_kernels(tmp_path, target):
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.gpu_programs", f"--target={target}",
            "--pairs=resnet8:resnet8", "--programs=step,evaluation,init", f"--text={tmp_path}",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    step, evaluation, init = json.loads(done.stdout.splitlines()[-1])
    # Nine convolutions each, and no gradient with respect to the images.
    assert step["kinds"]["forward"] == 9 + 9
    assert step["kinds"]["backward"] == 9 + 8
    assert evaluation["kinds"]["forward"] == 9
    assert init["kinds"]["forward"] == 0
    assert step["bytes"] > step["fewest_bytes"]
    text = next(tmp_path.glob("kd-*")).read_text()
    # The teacher's batch norms are part of its convolutions.
    assert text.count('custom_call_target="__cudnn$convBiasActivationForward"') == 9
    # Parameters are updated as one vector; a kernel for each of the 29 arrays would be more.
    assert step["kinds"]["elementwise"] < 75


def test_a_mistake_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_programs", "--target=abacus"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: no target 'abacus': choose from h100, a100\n"
