"""Transfer without data: a generator searches for images on which the student disagrees.

    python -m experiments.main --config=configs/zero_shot.py[:DATA][,table=N][,study=NAME]

The system of Micaelli & Storkey 2019, "Zero-shot knowledge transfer via adversarial belief
matching", with the experiments of its reproduction (Nicolini, Tadiello & Zamboni 2019).
There are two phases: a teacher, trained on data or loaded from
`--config.teacher.checkpoint`, and the student `zero_shot`, which sees nothing but generated
images; the test split is used for its evaluation only. A step of `zero_shot` is a
pseudo-batch: one update of the generator, then ten of the student.

DATA is one of

- `digits` (default): scikit-learn's handwritten digits at 16x16, `wrn_16_2` to `wrn_16_1`, 300
  pseudo-batches of 64: results/zero_shot.md.
- `mnist`, `fashion_mnist`, `svhn`, `cifar10`, `cifar100`: at 32x32, `wrn_40_2` to
  `wrn_16_1`, pseudo-batches of 128; 80,000 of them, or as many as the report's Table 6 has.

`method=dfq` is a successor, DFQ (Choi et al. 2020) as in zju-vipa/CMI, whose student is the phase
`dfq`. Its generator ends in a sigmoid and makes images that fit the teacher's batch norms, that
the teacher is sure of and whose classes are balanced; each of the student's updates has new ones.
There are 8,000 pseudo-batches of 256, except on the digits. `method=fast` is Fast (Fang et al.
2022) as in zju-vipa/Fast-Datafree: a copy of the generator takes ten steps for a batch, which goes
into the pool that the student learns from. There are 220 pseudo-batches of 256 with 400 updates of
the student, on the digits 60 of 64 with 50.

`teacher=MODEL`, `student=MODEL` and `steps=N` change these. A run without any data is
`--config.data.name= --config.teacher.checkpoint=RUN/teacher`; its student can still be
evaluated with `--config.evaluation.name=tfds:cifar10`.

The report's experiments, each with its table's numbers beside those of the run
(`--config.seeds=0,1,2` for deviations):

- `table=1`: KD+AT on 200 images per class, six pairs. `table=2`: without data, the same
  pairs. `table=3`: SVHN. `table=4`: the pairs of Table 2 by the reproduction's code.
  `teacher=` and `student=` select rows. `table=5`: the weight of attention transfer, also
  called `study=beta`. `table=6`: other data sets; a run has one of them, `mnist,table=6`.
- `study=n_g`: one update of the generator, or 1, 2 and 4 in the thirds of the run.
  `study=same`: student and teacher of one architecture. `study=chain`: a student that teaches a
  student. `study=switches`: what distinguishes the reproduction from the authors' code, one by
  one.
- `figure=2` (for CIFAR-10) and `figure=3` (SVHN): transition curves of the report's pairs, in
  `transition_curves.png` of the run folder, with mean transition errors beside the authors'.

`code=` chooses whose code is run, by default that which made the table:

- `authors`, for Tables 1 to 3 and everything else: PyTorch's `kl_div`, which is also a mean
  over classes; a learning rate of 2e-3 for the student and 1e-3 for the generator; teachers
  trained for 200 epochs (100 on SVHN) without Nesterov momentum.
- `report`, for Tables 4 to 6 and the studies: the same loss, but the student's first update uses
  the teacher's outputs for the images of before the generator's update; the networks' shortcuts
  take the raw input, their initialisation is PyTorch's default, and the last batch norm
  averages over little more than the last batch (PyTorch's momentum is 0.9); teachers are
  trained for 352 epochs with rotation and colour jitter, and normalise SVHN and Fashion-MNIST
  by 0.5 and CIFAR-100 by CIFAR-10's statistics.
- `paper`: the KL as it is written, a sum over classes, and 2e-3 for both networks.

`figure=` has the networks of both codes, and `study=switches` starts from `authors`. On the
digits all networks are trained as in every config on the digits.

`shots=M` adds the student trained further on M real images per class by KD and attention
transfer (`few_shot`), and a new student trained on these alone (`kd_at`); `shots=-1` adds
`kd_at` on all images.
"""

from ml_collections import ConfigDict

from configs import common
from configs import zero_shot_tables as tables
from configs.zero_shot_codes import (
    CODES,
    DATA,
    METHOD_BATCH_SIZE,
    METHODS,
    Code,
    add_data_free,
    add_few_shot,
    set_up,
)
from kdjax.types import UserError

TABLES = (0, 1, 2, 3, 4, 5, 6)
STUDIES = ("", "beta", "n_g", "same", "chain", "switches")
FIGURES = (0, 2, 3)
# The report's Tables 1, 2 and 4.
PAIRS = (
    ("wrn_16_2", "wrn_16_1"),
    ("wrn_40_1", "wrn_16_1"),
    ("wrn_40_2", "wrn_16_1"),
    ("wrn_40_1", "wrn_16_2"),
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
)
BETAS = (0, 100, 250, 1000, 2500)


def get_config(arg: str | None = None) -> ConfigDict:
    args = common.arguments(
        arg, data="digits", method="zskt", teacher="", student="", steps=0, table=0, study="",
        figure=0, code="", shots=0,
    )  # fmt: skip
    for what, given, allowed in (
        ("data", args.data, tuple(DATA)),
        ("method", args.method, ("zskt", *METHODS)),
        ("table", args.table, TABLES),
        ("study", args.study, STUDIES),
        ("figure", args.figure, FIGURES),
        ("code", args.code or "authors", tuple(CODES)),
    ):
        if given not in allowed:
            raise UserError(f"unknown {what} {given!r}: choose from {', '.join(map(str, allowed))}")
    others = sum(map(bool, (args.table, args.study, args.figure)))
    if others > 1:
        raise UserError("table, study and figure are given: choose one of them")
    method = METHODS.get(args.method)
    if others and method:
        raise UserError(f"method is {args.method!r}: table, study and figure are those of zskt")
    if args.table == 5:
        args.table, args.study = 0, "beta"
    reports = args.table in (4, 6) or args.study not in ("", "switches")
    code = CODES[args.code or ("report" if reports else "authors")]
    config = common.base()
    small = args.data == "digits"
    config.teacher.model = args.teacher or ("wrn_16_2" if small else "wrn_40_2")
    config.student.model = args.student or "wrn_16_1"
    steps = method.pseudo_batches[small] if method else DATA[args.data].pseudo_batches
    set_up(config, args.data, code, args.steps or steps)
    if args.table in (1, 2, 4):
        _pairs(config, args, code)
    elif args.table in (3, 6):
        _other_data(config, args, code)
    elif args.figure:
        _transition_curves(config, args)
    elif args.study:
        {"beta": _beta, "n_g": _n_g, "same": _same, "chain": _chain, "switches": _switches}[
            args.study
        ](config, args, code)
    else:
        config.phases.teacher = common.inherit(config.teacher)
        phase = args.method if method else "zero_shot"
        changes = {}
        if method:
            if not small:
                config.student.batch_size = METHOD_BATCH_SIZE
            counts = {"student_steps": (method.student_steps[small],)}
            changes = dict(method.student, adversarial=method.adversarial | counts)
        add_data_free(config, phase, code, **changes)
        _add_shots(config, args, code, phase)
    return config


def _add_shots(config: ConfigDict, args: ConfigDict, code: Code, phase: str) -> None:
    if args.shots:
        add_few_shot(config, "kd_at", code, args.data, shots=max(args.shots, 0))
    if args.shots > 0:
        add_few_shot(config, "few_shot", code, args.data, shots=args.shots, init_from=phase)


def _add_scratch(config: ConfigDict, *models: str) -> None:
    """Adds networks trained on all images, each once, with the names of their models."""
    for model in models:
        if model not in config.phases:
            config.phases[model] = common.inherit(config.teacher, model=model)


def _pairs(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    """Tables 1, 2 and 4."""
    chosen = [
        (teacher, student)
        for teacher, student in PAIRS
        if args.teacher in ("", teacher) and args.student in ("", student)
    ]
    if not chosen:
        pairs = ", ".join(f"{teacher} to {student}" for teacher, student in PAIRS)
        raise UserError(
            f"table {args.table} has no {args.teacher or 'teacher'} to "
            f"{args.student or 'student'}: choose from {pairs}"
        )
    for teacher, student in chosen:
        _add_scratch(config, teacher, student)
    for teacher, student in chosen:
        name = f"{teacher}_to_{student}"
        if args.table == 1:
            add_few_shot(config, name, code, args.data, shots=200, teacher=teacher, model=student)
        else:
            add_data_free(config, name, code, teacher, model=student)
    tables.add_pairs(config, args.table, chosen)


def _other_data(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    """Tables 3 and 6."""
    teacher, student = config.teacher.model, config.student.model
    _add_scratch(config, teacher, student)
    add_data_free(config, "zero_shot", code, teacher)
    if args.table == 3:
        tables.add_svhn(config, teacher, student)
    else:
        tables.add_data_sets(config, args.data, teacher, student)


def _beta(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    """Table 5."""
    config.phases.teacher = common.inherit(config.teacher)
    for beta in BETAS:
        add_data_free(config, f"beta_{beta}", code, objective={"at": {"weight": float(beta)}})
    tables.add_betas(config)


def _n_g(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    config.phases.teacher = common.inherit(config.teacher)
    add_data_free(config, "n_g_1", code)
    add_data_free(config, "n_g_1_2_4", code, adversarial={"generator_steps": (1, 2, 4)})
    tables.add_generator_steps(config)


def _same(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    config.teacher.model = args.teacher or "wrn_16_2"
    config.phases.teacher = common.inherit(config.teacher)
    add_data_free(config, "zero_shot", code, model=config.teacher.model)
    tables.add_same(config)


def _chain(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    """A teacher, its student, and the student of that; the last one also without the chain."""
    assistant = "wrn_16_2"
    if args.data == "digits":
        assistant, config.student.model = "wrn_16_1", args.student or "wrn_10_1"
    config.phases.teacher = common.inherit(config.teacher)
    config.phases.scratch = common.inherit(config.teacher, model=assistant)
    add_data_free(config, "assistant", code, model=assistant)
    add_data_free(config, "zero_shot", code, "assistant")
    add_data_free(config, "direct", code, "scratch")
    tables.add_chain(config)


def _switches(config: ConfigDict, args: ConfigDict, code: Code) -> None:
    """From `code` to the report's code, one difference at a time."""
    report = CODES["report"]
    config.phases.teacher = common.inherit(config.teacher)
    add_data_free(config, "base", code)
    add_data_free(config, "sum_over_classes", code, adversarial={"distance": "kl"})
    add_data_free(config, "stale_teacher", code, adversarial={"stale_teacher": True})
    for option, value in report.networks.items():
        add_data_free(config, option, code, model_options={option: value})
    add_data_free(config, "all_but_teacher", report)
    training = report.training[args.data].changes() if args.data in report.training else {}
    config.phases.report_teacher = common.inherit(
        config.teacher, model_options=report.networks, **training
    )
    add_data_free(config, "report_teacher_alone", code, "report_teacher")
    add_data_free(config, "report", report, "report_teacher")
    tables.add_switches(config)


def _transition_curves(config: ConfigDict, args: ConfigDict) -> None:
    """Figures 2 and 3: the networks of the authors' code and of the report's."""
    config.student.transition_curves.images = 1000
    teacher = config.teacher.model
    for name, code in ((name, CODES[name]) for name in ("authors", "report")):
        if args.code and args.code != name:
            continue
        training = code.training[args.data].changes() if args.data in code.training else {}
        taught_by = f"{name}_{teacher}"
        config.phases[taught_by] = common.inherit(
            config.teacher, model_options=code.networks, **training
        )
        normalisation = {key: training[key] for key in ("mean", "std") if key in training}
        if args.figure == 2 and name == "authors":
            add_few_shot(
                config, "kd_at", code, args.data, shots=0, teacher=taught_by, **normalisation
            )
        add_data_free(config, f"{name}_zero_shot", code, taught_by, **normalisation)
        if args.figure == 2 and name == "report":
            add_data_free(
                config, "report_zero_shot_wider", code, taught_by, model="wrn_16_2",
                **normalisation,
            )  # fmt: skip
    tables.add_transition_errors(config, args.figure)
