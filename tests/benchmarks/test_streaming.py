"""What the streaming benchmark says about memory."""

import math
import os
import subprocess
import sys

import pytest

from benchmarks import streaming


def test_quarters_are_those_of_the_steps_and_not_of_the_time():
    # Most samples are from the first steps, which took longest.
    samples = [(10, 5_000_000)] * 20 + [(50, 9_000_000), (75, 6_000_000), (95, 8_000_000)]
    assert streaming.quarters(samples, 100) == {"first": 5.0, "last": 7.0, "most": 9.0}
    assert math.isnan(streaming.quarters(samples[:-2], 100)["last"])


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux only")
def test_memory_is_that_of_a_process_and_its_descendants():
    inner = "x = bytearray(30_000_000); print(flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        held = streaming.held_by(process.pid)
        process.communicate(b"\n")
    assert 30e6 < held < 60e6
    assert streaming.held_by(process.pid) == 0


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert streaming.last_step(log) == 0
    log.write_text('{"step": 5}\n{"step": 10}\n{"ste')
    assert streaming.last_step(log) == 10
