"""A finished run that several tests look at."""

import pytest
from small_run import execute, small_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished small run."""
    workdir = tmp_path_factory.mktemp("run") / "finished"
    execute(small_config(), workdir, curves=True)
    return workdir
