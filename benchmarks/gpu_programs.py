"""What programs do on a GPU, without one: kernels a step, bytes moved, memory.

    python -m benchmarks.gpu_programs [--target=h100] [--pairs=resnet56:resnet20,wrn_40_2:wrn_16_2]
        [--methods=kd,crd] [--batch_sizes=64,512] [--dtype=bfloat16]
        [--image_size=32] [--num_classes=100] [--steps_per_call=32]
        [--programs=step,evaluation,init,zero_shot,transition_curves]

Compiles the programs of kdjax for the target, on any machine; needs the extra `cuda12`, and no
GPU. From the text of a program come the kernels that a step starts, by kind, and the bytes of
their operands and results, or of what they take of an operand, such as a batch of the data set.
Beside them stand

- the fewest bytes, if every convolution's output is written and read once in the forward pass,
  the student's is read once more and its gradient written and read once in the backward pass, and
  everything else stays on the chip;
- floors in milliseconds: the bytes over the target's bandwidth and the operations of the networks
  over its peak, whichever is longer; and the kernels times 1.5 and 4 microseconds, which is about
  what a start takes within a CUDA graph and in a stream.

Images of more than 64 pixels come from the host with each call, as crops of whole images do, and
networks have the stem for large images. The method `function_matching` is KL alone on mixed
images, by AdamW (Beyer et al. 2022). What a device must hold is a program's temporaries and its
arguments: the state, which the step replaces, the teacher, and the batches of a call.

Convolutions are those of cuDNN, of which neither algorithm nor workspace is known here. Prints a
row of a table per program, and at the end one JSON object.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Programs are compiled for the target and run nowhere.
os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags

from benchmarks import hlo
from experiments import cli
from kdjax.types import UserError


class Target(NamedTuple):
    """A GPU by its maker's data sheet.

    Attributes:
      name: as CUDA says it.
      capability: major and minor compute capability.
      cores: streaming multiprocessors.
      clock: in GHz.
      lanes: float32 operations per multiprocessor and cycle.
      shared: bytes of shared memory per multiprocessor.
      cache: bytes of the second-level cache.
      memory: in bytes.
      bandwidth: in bytes/s.
      peak: multiplications and additions per second on matrices, by dtype.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    clock: float
    lanes: int
    shared: int
    cache: int
    memory: int
    bandwidth: float
    peak: dict[str, float]

    def description(self) -> str:
        """The target's description in XLA's format."""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
              shared_memory_per_core: {self.shared} threads_per_core_limit: 2048
              core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth:.0f} l2_cache_size: {self.cache}
              device_memory_size: {self.memory} shared_memory_per_block_optin: {self.shared - 1024}
              cuda_compute_capability {{ major: {self.capability[0]} minor: {self.capability[1]} }}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
            }}
            platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
            device_description_str: "{self.name}" """


TARGETS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5; float32 matrices in TF32, without sparsity.
    "h100": Target(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 128, 228 * 1024, 50 << 20, 80 << 30, 3.35e12,
        {"bfloat16": 989e12, "float32": 494e12},
    ),
    # NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB.
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 64, 164 * 1024, 40 << 20, 80 << 30, 2.04e12,
        {"bfloat16": 312e12, "float32": 156e12},
    ),
}  # fmt: skip
_START = (1.5e-6, 4e-6)  # Seconds to start a kernel, in a graph and in a stream.
_IMAGES = 50_000
# Side of the largest images that are kept on the device.
_SMALL = 64
PROGRAMS = ("step", "evaluation", "init", "zero_shot", "transition_curves")

_TARGET = flags.DEFINE_string("target", "h100", ", ".join(TARGETS))
_PAIRS = flags.DEFINE_list(
    "pairs", ["resnet56:resnet20", "wrn_40_2:wrn_16_2", "resnet32x4:resnet8x4"], "TEACHER:STUDENT."
)
_METHODS = flags.DEFINE_list(
    "methods", ["kd"], "For the train step; `all`, or `function_matching`."
)
_BATCHES = flags.DEFINE_list("batch_sizes", ["64"], "Images per step.")
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "float32 or bfloat16.")
_SIZE = flags.DEFINE_integer("image_size", 32, "Side of the images, in pixels.", lower_bound=1)
_CLASSES = flags.DEFINE_integer("num_classes", 100, "Classes.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps_per_call", 0, "Steps in a call; 0 is as many as runs make.")
_PROGRAMS = flags.DEFINE_list("programs", ["step"], ", ".join(PROGRAMS))
_TEXT = flags.DEFINE_string("text", "", "Folder for the text of the compiled programs.")


class Row(NamedTuple):
    """A program and its costs; bytes and operations are those of a step, times in seconds."""

    program: str
    batch: int
    dtype: str
    kernels: int
    kinds: dict[str, int]
    bytes: int
    fewest_bytes: int
    temporary_bytes: int
    argument_bytes: int
    flop: int
    floor: float
    starts: tuple[float, float]
    compile_seconds: float

    def markdown(self) -> str:
        """A line of the table."""
        kinds = " + ".join(f"{count}" for count in self.kinds.values())
        graph, stream = (1e3 * seconds for seconds in self.starts)
        return (
            f"| {self.program} | {self.batch} | {self.kernels} | {kinds} | {self.bytes / 1e9:.2f} "
            f"| {self.fewest_bytes / 1e9:.2f} | {self.temporary_bytes / 1e6:,.0f} "
            f"| {self.argument_bytes / 1e6:,.0f} | {self.flop / 1e9:.1f} | {1e3 * self.floor:.2f} "
            f"| {graph:.2f} to {stream:.2f} | {self.compile_seconds:.0f} |"
        )


HEAD = (
    "| program | batch | kernels | " + " + ".join(hlo.KINDS) + " | GB | fewest GB "
    "| temporaries, MB | arguments, MB | GFLOP | floor, ms | starts, ms | compiled in s |\n"
    "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


class Compiler:
    """Compiles programs for a target that need not be there."""

    def __init__(self, target: Target):
        """Takes one device of the target.

        Raises:
          UserError: if JAX cannot compile for GPUs here.
        """
        import numpy as np
        from jax.experimental import topologies

        from kdjax import parallel

        class Described(parallel.Devices):
            """Devices that are described only: `pmap` is for those that are there."""

            def map(
                self, fn: Callable[..., Any], in_axes: Any, out_axes: Any = None, **kwargs: Any
            ) -> Callable[..., Any]:
                return _on_shards(self, fn, in_axes, out_axes, **kwargs)

        try:
            topology = topologies.get_topology_desc(
                platform="cuda", target_config=target.description(), topology="1x1x1"
            )
        except Exception as error:
            raise UserError(
                f"cannot compile for {target.name}: pip install 'kdjax[cuda12]' ({error})"
            ) from None
        self.target = target
        self.devices = Described(list(np.ravel(topology.devices)))
        self.text = ""

    def compile(
        self, name: str, program: Any, arguments: Any, *, batch: int, flop: int, fewest: int
    ) -> Row:
        """Compiles a program of `Devices.map` for arguments that are shapes."""
        from kdjax import parallel

        began = time.perf_counter()
        with parallel.built_for("gpu"):
            compiled = program.lower(*arguments).compile()
        seconds = time.perf_counter() - began
        self.text = compiled.as_text()
        found = hlo.costs(self.text)
        memory = compiled.memory_analysis()
        floor = max(found.bytes / self.target.bandwidth, flop / self.target.peak[_DTYPE.value])
        return Row(
            name, batch, _DTYPE.value, found.total, dict(found.kernels), found.bytes, fewest,
            memory.temp_size_in_bytes, memory.argument_size_in_bytes, flop, floor,
            (found.total * _START[0], found.total * _START[1]), seconds,
        )  # fmt: skip

    def placed(self, tree: Any, axis: int | None = None) -> Any:
        """Shapes on the device; those of sharded arrays begin with the number of devices."""
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        from kdjax import parallel

        spec = PartitionSpec() if axis is None else PartitionSpec(parallel.AXIS)
        sharding = NamedSharding(self.devices.mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )


def _on_shards(
    devices: Any, fn: Callable[..., Any], in_axes: Any, out_axes: Any, **kwargs: Any
) -> Callable[..., Any]:
    """What `Devices.map` makes, as `jax.jit` of `jax.shard_map`."""
    import jax
    from jax.sharding import PartitionSpec

    from kdjax import parallel

    specs = tuple(PartitionSpec() if a is None else PartitionSpec(parallel.AXIS) for a in in_axes)
    out_spec = PartitionSpec() if out_axes is None else PartitionSpec(parallel.AXIS)

    def local(*args: Any) -> Any:
        inner = [
            one if axis is None else jax.tree.map(lambda x: x[0], one)
            for one, axis in zip(args, in_axes, strict=True)
        ]
        with parallel.built_for("gpu"):
            outputs = fn(*inner)
        return outputs if out_axes is None else jax.tree.map(lambda x: x[None], outputs)

    mapped = jax.shard_map(
        local, mesh=devices.mesh, in_specs=specs, out_specs=out_spec, check_vma=False
    )
    return jax.jit(mapped, **kwargs)


def _options(name: str) -> dict[str, str]:
    """The attributes of a network for images of this size: the stem, where it has a choice."""
    from kdjax import models

    has_stem = hasattr(models.create(name, num_classes=_CLASSES.value), "stem")
    return {"stem": "imagenet"} if has_stem and _SIZE.value > _SMALL else {}


class Pair:
    """Teacher and student, and the shapes of what their programs take."""

    def __init__(self, compiler: Compiler, names: str, batch: int):
        """Takes `TEACHER:STUDENT`.

        Raises:
          UserError: if they are no two networks.
        """
        import jax
        import jax.numpy as jnp
        import numpy as np

        from experiments import models
        from kdjax import networks, parallel

        self.compiler, self.batch, self.names = compiler, batch, names.split(":")
        if len(self.names) != 2:
            raise UserError(f"--pairs has {names!r}: it is TEACHER:STUDENT")
        given = dict(
            num_classes=_CLASSES.value, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3,
            dtype=_DTYPE.value,
        )  # fmt: skip
        options = [_options(name) for name in self.names]
        self.teacher = networks.create(self.names[0], **given, options=options[0])
        self.student = networks.create(
            self.names[1], **given, axis_name=parallel.AXIS, options=options[1]
        )
        images = jnp.zeros((1, _SIZE.value, _SIZE.value, 3))
        self.variables, self.student_variables = (
            jax.eval_shape(one.init, jax.random.key(0), images)
            for one in (self.teacher, self.student)
        )
        self.data = {"labels": jax.ShapeDtypeStruct((_IMAGES,), np.int32)}
        if _SIZE.value <= _SMALL:
            shape = (_IMAGES, _SIZE.value, _SIZE.value, 3)
            self.data["images"] = jax.ShapeDtypeStruct(shape, np.uint8)
        self.key = jax.eval_shape(lambda: jax.random.key(0))
        self.taught, self.trained = (
            models.describe(
                name, resolution=_SIZE.value, num_classes=_CLASSES.value, in_channels=3, **chosen
            )
            for name, chosen in zip(self.names, options, strict=True)
        )
        self.width = jnp.dtype(networks.DTYPES[_DTYPE.value]).itemsize

    def batch_of(self, *shape: int) -> dict[str, Any]:
        """Batches of a call, [*shape, b] of each device, with images that are not resident."""
        import jax
        import numpy as np

        batch = {"index": jax.ShapeDtypeStruct((*shape, self.batch), np.int32)}
        if "images" not in self.data:
            pixels = (*shape, self.batch, _SIZE.value, _SIZE.value, 3)
            batch["images"] = jax.ShapeDtypeStruct(pixels, np.uint8)
        return batch

    def step(self, method: str) -> Row:
        """The train step of a method beside cross-entropy, with its usual weight."""
        import jax
        import jax.numpy as jnp

        from configs.methods import objective
        from experiments.length import Length, StepLimit
        from experiments.objective import make_objective
        from kdjax import optimizers, parallel, train
        from kdjax.data import views
        from kdjax.types import TeacherInputs

        compiler, b = self.compiler, self.batch
        terms: dict[str, Any] = {}
        chosen: dict[str, Any] = {"name": "sgd", "weight_decay": 5e-4}
        augment: dict[str, Any] = {}
        if method == "function_matching":
            terms["kd"] = {"weight": 1.0, "temperature": 1.0}
            chosen = {"name": "adamw", "weight_decay": 0.01, "decay_mask": "kernels"}
            chosen["grad_clip_norm"] = 1.0
            augment = {"teacher_view": "function_matching", "mixup": 1.0}
        else:
            terms = objective([method], *self.names)
        distiller = make_objective(terms, Length(StepLimit(1000), 100.0))
        shape = (_SIZE.value, _SIZE.value, 3)
        student = distiller.network(self.student, [train.abstract_outputs(self.teacher, shape)[0]])
        optimizer = optimizers.create(learning_rate=0.05, **chosen)
        program = compiler.devices.map(
            train.make_train_step(
                student=student, distiller=distiller, optimizer=optimizer,
                views=views.make_views(
                    num_classes=_CLASSES.value, image_size=_SIZE.value,
                    cropped="images" not in self.data, **augment,
                ),
                teachers=[self.teacher], axis_name=parallel.AXIS,
                elementwise=optimizers.is_elementwise(
                    chosen["name"], chosen.get("decay_mask", "all")
                ),
            ),
            in_axes=(None, None, None, 0, None), donate_argnums=0,
        )  # fmt: skip
        state = jax.eval_shape(
            lambda key, variables: train.init_state(
                key, student=student, distiller=distiller, optimizer=optimizer,
                image_shape=shape, num_classes=_CLASSES.value, batch_size=b,
                teachers=[self.teacher], teacher_variables=variables,
                train_labels=jnp.zeros(_IMAGES, jnp.int32),
            ),
            self.key, (self.variables,),
        )  # fmt: skip
        steps = _STEPS.value or parallel.default_steps_per_call(compiler.devices)
        batch = self.batch_of(1, steps)
        placed = compiler.placed
        arguments = map(placed, (state, TeacherInputs((self.variables,)), self.data))
        return compiler.compile(
            f"{method}, {self.names[0]} to {self.names[1]}", program,
            (*arguments, placed(batch, 0), placed(self.key)), batch=b,
            flop=2 * b * (3 * self.trained.multiply_adds + self.taught.multiply_adds),
            fewest=self.width * b * (5 * self.trained.activations + 2 * self.taught.activations),
        )  # fmt: skip

    def evaluation(self) -> Row:
        """The student on a batch of the data set."""
        from kdjax import train

        compiler, b = self.compiler, self.batch
        program = compiler.devices.map(
            train.make_eval_step(self.student, _SIZE.value), in_axes=(None, None, 0), out_axes=0
        )
        batch = self.batch_of(1)
        arguments = (self.student_variables, self.data)
        return compiler.compile(
            f"evaluation, {self.names[1]}", program,
            (*map(compiler.placed, arguments), compiler.placed(batch, 0)), batch=b,
            flop=2 * b * self.trained.multiply_adds,
            fewest=self.width * b * 2 * self.trained.activations,
        )  # fmt: skip

    def init(self) -> Row:
        """The student's initial variables."""
        import jax.numpy as jnp

        program = self.compiler.devices.map(
            lambda key: self.student.init(key, jnp.zeros((1, _SIZE.value, _SIZE.value, 3))),
            in_axes=(None,),
        )
        return self.compiler.compile(
            f"init, {self.names[1]}", program, (self.compiler.placed(self.key),), batch=0, flop=0,
            fewest=4 * self.trained.parameters,
        )  # fmt: skip

    def zero_shot(self) -> Row:
        """A pseudo-batch: an update of the generator, and ten of the student with its attention."""
        import jax
        import numpy as np

        from configs import common
        from experiments import models
        from experiments.data import PhaseData
        from experiments.length import Length, StepLimit
        from experiments.tasks import DataFree, Setup
        from kdjax.adversarial.pseudo_batch import scan

        compiler, b, updates = self.compiler, self.batch, 10
        config = common.inherit(
            common.base().student, batch_size=b, objective={"at": {"weight": 250.0}},
            adversarial={"student_steps": (updates,)},
            optimizer={
                "name": "adam", "learning_rate": 2e-3, "weight_decay": 0.0, "grad_clip_norm": 5.0,
            },
        )  # fmt: skip
        data = PhaseData(splits={}, num_classes=_CLASSES.value, channels=3, image_size=_SIZE.value)
        setup = Setup("zero_shot", config, self.student, [self.teacher], data, compiler.devices)
        task = DataFree.create(setup, Length(StepLimit(1000), 1.0))
        state = jax.eval_shape(
            lambda key, one: task.init(key, one, None), self.key, (self.variables,)
        )
        program = scan(task.adversary, compiler.devices, generator_steps=1, student_steps=updates)
        indices = jax.ShapeDtypeStruct((1, 32, b), np.int32)
        placed = compiler.placed
        trained, taught = self.trained, self.taught
        generated = models.describe("generator")
        # Forward and both gradients of the generator and, with respect to images, of the two
        # networks; then the teacher once, and forward and both gradients of each student's update.
        operations = (
            3 * generated.multiply_adds + 2 * (taught.multiply_adds + trained.multiply_adds)
            + generated.multiply_adds + taught.multiply_adds + 3 * updates * trained.multiply_adds
        )  # fmt: skip
        arrays = (
            5 * generated.activations + 5 * (taught.activations + trained.activations)
            + 2 * generated.activations + 2 * taught.activations
            + 5 * updates * trained.activations
        )  # fmt: skip
        return compiler.compile(
            f"zero-shot, {self.names[0]} to {self.names[1]}", program,
            (placed(state), placed((self.variables,)), placed(indices, 0), placed(self.key)),
            batch=b, flop=2 * b * operations, fewest=self.width * b * arrays,
        )  # fmt: skip

    def transition_curves(self) -> Row:
        """A step of the curves from the student across its boundaries, for a batch of images."""
        import jax
        import numpy as np

        from kdjax.adversarial.transition_curves import follow_all, make_step

        compiler, b = self.compiler, self.batch

        def follow(variables: Any, taught: Any, images: Any, targets: Any) -> Any:
            step = make_step(
                lambda x: self.student.evaluate(variables, x).logits,
                lambda x: self.teacher.evaluate(taught, x).logits, 1.0,
            )  # fmt: skip
            return follow_all(step, 100, images, targets)

        program = compiler.devices.map(follow, in_axes=(None,) * 4)
        images = jax.ShapeDtypeStruct((b, _SIZE.value, _SIZE.value, 3), np.float32)
        targets = jax.ShapeDtypeStruct((b,), np.int32)
        arguments = (self.student_variables, self.variables, images, targets)
        return compiler.compile(
            f"curves, {self.names[1]} and {self.names[0]}", program,
            tuple(map(compiler.placed, arguments)), batch=b,
            flop=2 * b * (2 * self.trained.multiply_adds + self.taught.multiply_adds),
            fewest=self.width * b * (4 * self.trained.activations + 2 * self.taught.activations),
        )  # fmt: skip


def main() -> None:
    """Compiles what the flags name."""
    from kdjax import distillers

    if _TARGET.value not in TARGETS:
        raise UserError(f"no target {_TARGET.value!r}: choose from {', '.join(TARGETS)}")
    if unknown := [name for name in _PROGRAMS.value if name not in PROGRAMS]:
        raise UserError(f"no program {unknown[0]!r}: choose from {', '.join(PROGRAMS)}")
    methods = _METHODS.value
    if methods == ["all"]:
        methods = [name for name in distillers.names() if name != "cross_entropy"]
    compiler = Compiler(TARGETS[_TARGET.value])
    rows = []
    print(HEAD)
    for batch in map(int, _BATCHES.value):
        for names in _PAIRS.value:
            pair = Pair(compiler, names, batch)
            calls: list[Callable[[], Row]] = []
            if "step" in _PROGRAMS.value:
                calls += [lambda m=method, p=pair: p.step(m) for method in methods]
            calls += [getattr(pair, name) for name in PROGRAMS[1:] if name in _PROGRAMS.value]
            for call in calls:
                rows.append(call())
                print(rows[-1].markdown(), flush=True)
                if _TEXT.value:
                    name = rows[-1].program.replace(", ", "-").replace(" ", "_")
                    with open(f"{_TEXT.value}/{name}-{batch}.txt", "w") as file:
                        file.write(compiler.text)
    print(json.dumps([row._asdict() for row in rows]))


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
