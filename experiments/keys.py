"""All keys of a config: defaults, what their values may be, and what they mean.

`experiments.schema` makes a config of the defaults and checks one, and the reference of the
configuration in the documentation is made from these tables.
"""

from typing import Any, NamedTuple

from experiments.cells import Cell, Lines
from experiments.rules import (
    Choice,
    Flag,
    Number,
    Rule,
    Several,
    Text,
    Whole,
)
from kdjax import adversarial, networks, optimizers, schedules, teachers
from kdjax.data import policies, views
from kdjax.distillers.combine import PARTS


class Key(NamedTuple):
    """A key of a config.

    Attributes:
      default: its value where nothing else is said.
      rule: what its value may be; None for a group without fixed keys, which is checked by itself.
      meaning: in words.
    """

    default: Any
    rule: Rule | None
    meaning: str


Keys = dict[str, "Key | dict[str, Any]"]

NOT_NEGATIVE, POSITIVE = Number(0), Number(0, above=True)
SHARE = Number(0, 1)
_SEED = Whole(0, 2**32 - 1)
_COUNT = Whole(0)
_SIDE = Whole(0, 4096)
_SELECT = ("last", "best")

RUN: Keys = {
    "seed": Key(0, _SEED, "Of everything random."),
    "seeds": Key(
        (), Several(_SEED, distinct=True),
        "Such as 0,1,2: students of these seeds, trained together. Tables show means and "
        "deviations.",
    ),
    "share_views": Key(
        False, Flag(),
        "Seeds differ only in their initialisation: all see the batches and views of the first "
        "one, and the teacher sees each view once.",
    ),
    "teacher_cache": Key(
        "", Text(),
        "Folder in which teachers' logits are kept, as float16: phases and runs with the same "
        "teacher, data, seed, batch size and views replay them, and methods that need logits "
        "alone do not run the teacher. The views are others than without it.",
    ),
    "debug": Key(
        False, Flag(),
        "Smoke test: two steps per phase on a few images of the data, or on the digits where data "
        "of tfds is without `data.dir`.",
    ),
    "devices": Key(0, _COUNT, "Devices that share a batch; 0 uses as many as divide it."),
    "steps_per_call": Key(
        0, _COUNT, "Steps per compiled call; 0 is the platform's default (1 on CPU, 32 on a GPU)."
    ),
    "log_every": Key(50, Whole(1), "Steps between logged rows."),
    "eval_every": Key(
        1.0, NOT_NEGATIVE, "Epochs between evaluations; 0 evaluates only at the end."
    ),
    "checkpoint_every": Key(
        5.0, NOT_NEGATIVE,
        "Minutes between checkpoints; there is also one at every evaluation.",
    ),
    "trackers": Key(
        ("tensorboard",), Several(Text(), distinct=True),
        "Where the log goes besides metrics.jsonl: `tensorboard`, `wandb` (offline unless "
        "WANDB_MODE says otherwise), or `package.module:function`.",
    ),
    "profile": Key(
        "", Text(), "`FIRST:LAST`, steps of every phase to trace for TensorBoard and Perfetto."
    ),
}  # fmt: skip

DATA: Keys = {
    "name": Key(
        "digits", Text(),
        "`digits`, `tfds:NAME`, `cifar:DIR`, `npz:FILE`, `folder:DIR`, `domains:...`, or a reader "
        "of one's own, `module:reader`; empty in a run without data.",
    ),
    "dir": Key("", Text(), "Folder in which tfds keeps its data."),
    "train_split": Key("train", Text(), "Of tfds, a split or a slice; of a folder, a subfolder."),
    "test_split": Key("test", Text(), "The same for the test images."),
    "resize": Key(
        0, _SIDE, "Side in pixels to which images are resized when they are read; 0 keeps them."
    ),
    "whole": Key(
        False, Flag(),
        "Take inception crops from the whole images at full resolution (tfds, folder, "
        "array_record). They are decoded for every batch; everything else sees the resized ones.",
    ),
    "image_size": Key(
        0, _SIDE, "Side in pixels of what networks see; 0 is that of the images."
    ),
    "validation": Key(0.0, Number(0, 1, below=True), "Share of the training split to hold out."),
    "train_examples": Key(0, _COUNT, "Fixed random subset of the training split; 0 is all."),
    "memory": Key(4.0, NOT_NEGATIVE, "GB up to which a split is kept on the device."),
    "workers": Key(0, Whole(0, 1024), "Processes that decode a split larger than that."),
    "channels": Key(0, Whole(0, 1024), "Of the images, in a run without data."),
    "num_classes": Key(0, _COUNT, "The same."),
}  # fmt: skip

EVALUATION: Keys = {
    "name": Key("", Text(), "What phases without data are evaluated on; empty for that of `data`."),
    "dir": DATA["dir"],
    "test_split": DATA["test_split"],
    "resize": DATA["resize"],
    "image_size": DATA["image_size"],
    "memory": DATA["memory"],
}

_IMAGES: Keys = {
    "name": Key("", Text(), "Of a data set; empty for none."),
    "dir": DATA["dir"],
    "split": Key("train", Text(), "As `data.train_split`."),
    "resize": Key(0, _SIDE, "Side in pixels; 0 is that of `data`."),
    "examples": Key(0, _COUNT, "Fixed random subset; 0 is all."),
}

OPTIMIZER: Keys = {
    "name": Key("sgd", Choice(optimizers.NAMES), "Of the optimiser."),
    "learning_rate": Key(0.1, NOT_NEGATIVE, "After the warm-up."),
    "momentum": Key(0.9, Number(0, 1, below=True), "Of SGD, DOT and Adafactor; Adam's beta_1."),
    "nesterov": Key(False, Flag(), "Nesterov momentum, of SGD, DOT, Adam and AdamW."),
    "delta": Key(
        0.075, Number(0, 1, below=True),
        "Of DOT: by how much the momentum of the distillation's gradient is above `momentum`, and "
        "that of cross-entropy's below.",
    ),
    "weight_decay": Key(5e-4, NOT_NEGATIVE, "0 for none."),
    "decoupled": Key(
        False, Flag(), "Weight decay beside the gradient's moments instead of an L2 penalty."
    ),
    "decay_mask": Key("all", Choice(optimizers.DECAY_MASKS), "What decays."),
    "grad_clip_norm": Key(
        0.0, NOT_NEGATIVE, "Global norm to which gradients are clipped; 0 does not clip."
    ),
}  # fmt: skip

SCHEDULE: Keys = {
    "name": Key("cosine", Choice(schedules.NAMES), "Of the learning rate."),
    "warmup": Key(0.0, NOT_NEGATIVE, "Length of a linear rise from 0, in `unit`."),
    "num_stairs": Key(0, _COUNT, "Plateaus of a stepwise warm-up; 0 rises evenly."),
    "boundaries": Key(
        (), Several(NOT_NEGATIVE, rising=True), "Of `step`, in `unit` from the start."
    ),
    "decay_rate": Key(0.1, NOT_NEGATIVE, "Of `step` and `exponential`."),
    "unit": Key("epochs", Choice(schedules.UNITS), "Of `warmup` and `boundaries`."),
    "horizon": Key(
        0.0, NOT_NEGATIVE, "Epochs over which it is laid out; 0 is the length of the phase."
    ),
}  # fmt: skip

AUGMENT: Keys = {
    "teacher_view": Key("consistent", Choice(views.TEACHER_VIEWS), "What the teachers see."),
    "teacher_crops": Key(
        0, _COUNT,
        "With a fixed view: number of crops, such as the student's, over which the teacher's "
        "predictions are averaged, once per image; 0 is the central square.",
    ),
    "teacher_size": Key(
        (), Several(_SIDE),
        "Side in pixels of what the teachers see, one for all or one for each; 0 is that of the "
        "student's views.",
    ),
    "crop": Key("padded", Choice(views.CROPS), "`random` is a window, `inception` resizes a part."),
    "padding": Key(4, _SIDE, "Of `padded`, in pixels."),
    "scale": Key(
        (0.05, 1.0), Several(Number(0, 1, above=True), count=2, rising=True),
        "Of `inception`, range of the part's area as a fraction of the image's.",
    ),
    "flip": Key(True, Flag(), "Mirror half of the images."),
    "rotation": Key(0.0, Number(0, 180), "In degrees, at most."),
    "vertical_flip": Key(False, Flag(), "Turn half of the images upside down."),
    "jitter": Key(
        0.0, Number(0, 0.5), "Of brightness, contrast, saturation and hue, at most."
    ),
    "noise": Key(0.0, SHARE, "Probability that an image is replaced by uniform noise."),
    "crop_last": Key(
        False, Flag(), "Crop and flip after rotation, vertical flip and jitter."
    ),
    "cutout": Key(0, _SIDE, "Side of a square that is painted over, in pixels."),
    "mixup": Key(0.0, NOT_NEGATIVE, "Parameter of its Beta distribution; 0 is none."),
    "mixup_weight": Key("batch", Choice(views.MIXUP_WEIGHTS), "One weight for each of these."),
    "policy": Key(
        "", Choice(("", *policies.POLICIES)),
        "Crop, flip and cutout come before or after it as in the code that published it.",
    ),
    "policy_ops": Key(3, Whole(1, 16), "Operators per image, of `randaugment`."),
    "policy_magnitude": Key(5.0, Number(0, 30), "Of `randaugment`."),
}  # fmt: skip

PHASE: Keys = {
    "seed": Key(0, _SEED, "Of the phase; by default that of the run."),
    "seeds": Key((), Several(_SEED, distinct=True), "By default those of the run."),
    "eval_every": Key(1.0, NOT_NEGATIVE, "By default that of the run."),
    "model": Key("", Text(), "Of `python -m experiments.models`, or `package.module:factory`."),
    "model_options": Key(
        {}, None,
        "Further attributes, such as `stem='imagenet'`. They are set as a whole: a layer shares "
        "its options with what inherits from it.",
    ),
    "dtype": Key("float32", Choice(tuple(networks.DTYPES)), "Of the networks' computation."),
    "mean": Key(
        (), Several(Number()),
        "Of the normalisation, per channel, of pixels in [0, 1]; () measures it.",
    ),
    "std": Key((), Several(Number(1e-4)), "The same."),
    "checkpoint": Key("", Text(), "Load the network from here and do not train it."),
    "ensemble": Key(
        (), Several(Text(), distinct=True),
        "Earlier phases: nothing is trained, and what is evaluated is the mean of their networks' "
        "probabilities.",
    ),
    "init_from": Key(
        "", Text(), "Initial variables: a file, the folder of a phase, an earlier phase."
    ),
    "init_mix": Key(
        1.0, SHARE,
        "How much of them: 0 is the model's own initialisation, and values between are points on "
        "the line that joins the two.",
    ),
    "new_head": Key(
        False, Flag(),
        "Fine-tuning: the layer that makes the logits keeps the model's own initialisation, and "
        "the network of `init_from` may have other classes.",
    ),
    "reestimate_batch_norm": Key(
        False, Flag(),
        "Before the first step, renew the running averages of batch norm by one pass over the "
        "training images.",
    ),
    "init_methods_from": Key(
        "", Text(), "Initial variables of the methods: a phase, in the same form."
    ),
    "continue_from": Key(
        "", Text(),
        "An earlier phase that this one goes on from: student, methods, optimiser and the position "
        "in the learning rate's schedule.",
    ),
    "teachers": Key(
        (), Several(Text(), distinct=True), "Earlier phases, or folders of phases of other runs."
    ),
    "compared_with": Key(
        (), Several(Text(), distinct=True),
        "The same: networks that the phase is measured against.",
    ),
    "teacher_batch_norm": Key(
        "running", Choice(teachers.BATCH_NORMS), "Averages, or statistics of the batch."
    ),
    "objective": Key(
        {"cross_entropy": {"weight": 1.0}}, None,
        "Terms by name: `weight`, its `schedule`, the `method` if that is not the name, what they "
        "are `on` (all, labelled, unlabelled), and the method's arguments.",
    ),
    "adversarial": Key(
        {}, None, "If not empty, the phase learns without data, from a generator."
    ),
    "images": {
        **_IMAGES,
        "labels": Key(True, Flag(), "Whether the phase sees their labels."),
    },
    "more_images": {
        **_IMAGES,
        "labels": Key(False, Flag(), "Whether the phase sees their labels."),
        "share": Key(0.5, Number(0, 1, above=True, below=True), "Of each batch."),
    },
    "subset": {
        "parts": Key(1, Whole(1), "Equal random parts of the training split."),
        "part": Key((), Several(_COUNT, distinct=True), "Those that the phase has; () is all."),
        "seed": Key(0, _SEED, "The choice depends on it alone."),
        "examples": Key(0, _COUNT, "So many of these; 0 is all."),
        "per_class": Key((), Several(_COUNT), "So many of each class; () is all."),
    },
    "shots": Key(0, _COUNT, "Training images per class, a fixed random subset; 0 is all."),
    "shots_per_seed": Key(False, Flag(), "Each seed draws a subset of its own."),
    "epochs": Key(10.0, Number(0, 1e9), "Length of the phase."),
    "steps": Key(0, Whole(0, 2**31 - 1), "Instead of epochs, if positive."),
    "until": Key(
        {}, None,
        "Conditions that end the phase, by name: `over`, one of `compared_with`, and `margin`, by "
        "which the validation accuracy is larger than its (`below`: at most so much).",
    ),
    "early_stopping": Key(
        0, _COUNT, "Evaluations without a better validation accuracy; 0 is never."
    ),
    "batch_size": Key(128, Whole(1), "Images per step."),
    "grad_accum_steps": Key(1, Whole(1), "Parts into which a batch is cut to save memory."),
    "sync_batch_norm": Key(True, Flag(), "Batch norm averages over all devices."),
    "ema_decay": Key(
        0.0, Number(0, 1, below=True),
        "Of an average of the weights that is evaluated; 0 keeps none.",
    ),
    "select": Key(
        "last", Choice(_SELECT), "Which network counts; `best` is on the validation split."
    ),
    "keep": Key(
        (), Several(NOT_NEGATIVE, distinct=True),
        "Epochs after which the network is kept; other phases call it NAME@EPOCH, such as "
        "teacher@50, and teacher@0 is the network before its first step.",
    ),
    "train_eval_images": Key(
        0, _COUNT,
        "Training images, a fixed random subset, on which the network is also measured at every "
        "evaluation (`train_eval/...`).",
    ),
    "optimizer": OPTIMIZER,
    "schedule": SCHEDULE,
    "transition_curves": {
        "images": Key(
            0, _COUNT,
            "On which to measure how alike the boundaries of student and first teacher are, at "
            "most.",
        ),
        "steps": Key(100, Whole(1), "Of a curve."),
        "step_size": Key(1.0, POSITIVE, "Of each."),
    },
    "augment": AUGMENT,
    "extra_views": Key(
        {}, None,
        "More views of every image in a step, by name, as changes to `augment`. The loss is the "
        "mean over all views, each with a forward pass and batch statistics of its own.",
    ),
}  # fmt: skip

TERM: Keys = {
    "weight": Key(1.0, Number(), "Of the term."),
    "method": Key("", Text(), "Of `kdjax.distillers`, or `package.module:factory`."),
    "on": Key("all", Choice(PARTS), "The images of which it is a mean."),
    "schedule": {
        **SCHEDULE,
        "rise": Key("linear", Choice(schedules.RISES), "Shape of the warm-up."),
        "of": Key("weight", Text(), "What follows it: the weight, or an argument of the method."),
    },
}

ADVERSARIAL: Keys = {
    "distance": Key("kl", Choice(tuple(adversarial.DISTANCES)), "What the generator maximises."),
    "distance_weight": Key(1.0, NOT_NEGATIVE, "Of the distance, for the generator."),
    "batch_norm_weight": Key(
        0.0, NOT_NEGATIVE, "Of the distance from the teacher's batch norms, for the generator."
    ),
    "one_hot_weight": Key(
        0.0, NOT_NEGATIVE, "Of the cross-entropy of predictions with their own class, likewise."
    ),
    "balance_weight": Key(
        0.0, NOT_NEGATIVE, "Of the negative entropy of the mean prediction, likewise."
    ),
    "student_distance": Key(True, Flag(), "Whether the student minimises the distance."),
    "student_eval": Key(
        False, Flag(), "Whether it is in evaluation mode in the generator's updates."
    ),
    "fresh_images": Key(False, Flag(), "Whether each update has images of its own."),
    "pool": Key(
        0,
        _COUNT,
        "Batches that Fast keeps for the student, with crops and flips by `augment`; 0 is no Fast.",
    ),
    "latent_learning_rate": Key(0.01, NOT_NEGATIVE, "Of latents, in Fast."),
    "moments_decay": Key(
        0.9,
        Number(0, 1, below=True),
        "Of the moving averages at the teacher's batch norms, in Fast.",
    ),
    "warmup": Key(0.0, SHARE, "Share of the phase in which Fast's generator ignores the student."),
    "generator_steps": Key((1,), None, "Updates of the generator per pseudo-batch, or several."),
    "student_steps": Key((10,), None, "Updates of the student per pseudo-batch, or several."),
    "learning_rate": Key(1e-3, NOT_NEGATIVE, "Of the generator."),
    "optimizer": Key(
        "",
        Choice(("", *optimizers.NAMES)),
        "Of the generator, with a constant rate; '' is the student's with its schedule.",
    ),
    "momentum": Key(0.9, Number(0, 1, below=True), "Of `optimizer`; Adam's beta_1."),
    "latent_dim": Key(100, Whole(1), "Length of a latent."),
    "features": Key(128, Whole(1), "Channels of the generator's first feature map."),
    "sigmoid": Key(False, Flag(), "Whether the generator ends in a sigmoid."),
    "spectral_norm": Key(False, Flag(), "Whether the generator's convolutions have it."),
    "stale_teacher": Key(False, Flag(), "As for `kdjax.adversarial.Adversary`."),
    "eval_every": Key(50, _COUNT, "Pseudo-batches between evaluations; 0 only at the end."),
}

UNTIL: Keys = {
    "over": Key("", Text(), "One of `compared_with`."),
    "margin": Key(0.0, Number(-1, 1), "Difference in validation accuracy."),
    "below": Key(False, Flag(), "End at a difference of at most `margin`."),
}

# Of the tables and plots that a run ends in, which `configs.tables` makes.
TABLE: Keys = {
    "caption": Key("", Text(), "What it shows."),
    "columns": Key((), Several(Text()), "Headings."),
    "rows": Key((), Several(Several(Cell())), "Of cells."),
    "probe": Key("", Text(), "Of `experiments.properties`, whose figures it shows."),
}
SCATTER: Keys = {
    "caption": TABLE["caption"],
    "x_label": Key("", Text(), "Of the horizontal axis."),
    "y_label": Key("", Text(), "Of the vertical axis."),
    "series": Key((), Lines(), "By label."),
}
PLOT: Keys = {
    "caption": TABLE["caption"],
    "x_label": SCATTER["x_label"],
    "x_scale": Key("linear", Choice(("linear", "log", "symlog")), "Of the horizontal axis."),
    "series": SCATTER["series"],
    "span": Key((), Several(Number()), "The range that is shaded."),
    "span_label": Key("", Text(), "What that range is."),
}
