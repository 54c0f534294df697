"""Classes of images on the command line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import kdjax
from experiments import prediction
from kdjax import UserError

NAMES = [f"a digit with the long name of {i}" for i in range(10)]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.predict", "--trust=small_run", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """The finished run, with names of classes."""
    copied = tmp_path_factory.mktemp("named") / "run"
    shutil.copytree(finished, copied)
    for phase in ("teacher", "kd"):
        file = copied / phase / "network.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"class_names": NAMES}))
    return copied


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Grey and coloured images of different sizes, and what is not looked at."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    (folder / "sub").mkdir()
    (folder / ".hidden").mkdir()
    for name, shape in (
        ("b.png", (8, 8)), ("sub/a.JPG", (20, 12, 3)), (".hidden/c.png", (8, 8))
    ):  # fmt: skip
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_json_has_the_probabilities_of_network_and_teacher(run, images):
    done = command(f"--network={run / 'kd'}", f"--images={images}", "--top=3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["image"] for one in found] == [str(images / "b.png"), str(images / "sub/a.JPG")]
    for name in ("kd", "teacher"):
        classifier = kdjax.load(run / name)
        for one in found:
            best = one["network"] if name == "kd" else one["teachers"]["teacher"]
            (expected,) = classifier.probabilities(classifier.read(one["image"])[None])
            order = np.argsort(-np.asarray(expected))[:3]
            assert [guess["label"] for guess in best] == order.tolist()
            assert [guess["name"] for guess in best] == [NAMES[i] for i in order]
            np.testing.assert_allclose(
                [guess["probability"] for guess in best], expected[order], rtol=1e-4
            )


def test_the_table_fits_80_columns_and_cuts_nothing(run, images):
    done = command(f"--network={run / 'kd'}", f"--images={images / 'b.png'}", "--top=2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    assert "kd" in lines[1]
    assert "teacher" in lines[1]


def test_a_mistake_is_one_line(run, tmp_path):
    done = command(f"--network={run / 'kd'}", f"--images={tmp_path / 'none.png'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no such image or folder: '{tmp_path / 'none.png'}'\n"


def test_folders_without_images_and_broken_images_are_named(run, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"no image in '.*': \.png, \.jpg, \.jpeg, "):
        prediction.find_images(str(tmp_path))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (file,) = prediction.find_images(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot read '.*broken\.png'"):
        prediction.guesses(kdjax.load(run / "kd"), [file], 1)


def test_teachers(run, finished):
    kd = str(run / "kd")
    assert list(prediction.load_networks(kd, "auto")[1]) == ["teacher"]
    assert prediction.load_networks(kd, "none")[1] == {}
    assert prediction.load_networks(str(run / "teacher"), "auto")[1] == {}
    other = str(finished / "scratch")
    assert list(prediction.load_networks(kd, other)[1]) == [other]
    with pytest.raises(UserError, match="name one of its phases"):
        prediction.load_networks(kd, str(run))


def test_a_teacher_sees_what_it_saw_in_training(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/config.json"
    config = json.loads(file.read_text())
    config["phases"]["kd"]["augment"]["teacher_size"] = [12]
    file.write_text(json.dumps(config))
    student, teachers = prediction.load_networks(str(tmp_path / "run/kd"), "auto")
    assert (student.resolution, teachers["teacher"].resolution) == (0, 12)
    assert teachers["teacher"].image_size == 8


def test_a_network_outside_of_a_run_has_no_teacher(run, tmp_path):
    shutil.copytree(run / "kd", tmp_path / "kd")
    assert prediction.load_networks(str(tmp_path / "kd"), "auto")[1] == {}
