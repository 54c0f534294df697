"""What every config starts from, and how its parts inherit from each other.

A config has groups for the data, a few keys for the run, and three layers of the same
keys: `train` holds what all phases share, `teacher` and `student` inherit from it, and each
of the `phases` inherits from one of those two. A key that is set on the command line is set
for everything below it: `--config.train.batch_size=64` for all phases,
`--config.student.epochs=5` for all students, `--config.phases.kd.epochs=5` for one.

A config of one's own is a file anywhere that starts from `base` (or from `pair` of
`configs.protocols`) and adds phases with `inherit`.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import legacy
from kdjax.types import UserError


def base() -> ConfigDict:
    """A config without phases that has every key of a run, with its default."""
    config = ConfigDict(sort_keys=False)
    config.seed = 0  # of initialisation, order and views
    # Such as 0,1,2: students of these seeds, trained together. Tables show means and deviations.
    config.seeds = ()
    # Seeds differ only in their initialisation: all see the batches and views of the first
    # one, and the teacher sees each view once.
    config.share_views = False
    # Smoke test: two steps per phase on a few images of the data, or on the digits where data of
    # tfds is without `data.dir`.
    config.debug = False
    # Devices that share a batch; 0 uses as many as divide it.
    config.devices = 0
    # Steps per compiled call; 0 is the platform's default (1 on CPU, 32 on a GPU).
    config.steps_per_call = 0
    config.log_every = 50  # steps
    config.eval_every = 1.0  # epochs; 0 evaluates only at the end
    config.checkpoint_every = 5.0  # minutes; there is also a checkpoint at every evaluation
    # FIRST:LAST, steps of every phase to trace for TensorBoard and Perfetto.
    config.profile = ""
    config.data = ConfigDict(
        dict(
            # `digits`, `tfds:<name>`, `cifar:<dir>`, `npz:<file>`, `folder:<dir>`, `domains:...`,
            # or a reader of one's own, `module:reader`. Empty in a run without data.
            name="digits",
            dir="",
            train_split="train",
            test_split="test",
            resize=0,  # side in pixels to which images are resized when read; 0 keeps them
            # Take inception crops from the whole images at full resolution (tfds and folders).
            # They are decoded for every batch; everything else sees the resized ones.
            whole=False,
            image_size=0,  # side in pixels of what networks see; 0 is that of the images
            validation=0.0,  # share of the training split to hold out
            train_examples=0,  # fixed random subset of the training split; 0 is all
            memory=4.0,  # GB up to which a split is kept on the device
            workers=0,  # processes that decode a split larger than that
            # Needed, like image_size, in a run without data (an empty name), whose teachers
            # come from checkpoints.
            channels=0,
            num_classes=0,  # the same
        )
    )
    # What phases without data are evaluated on; only its test split is used. An empty name
    # is the test split of `data`.
    config.evaluation = ConfigDict(
        dict(name="", dir="", test_split="test", resize=0, image_size=0, memory=4.0)
    )
    config.train = ConfigDict(
        dict(
            # Those of the run, unless a layer or a phase has its own.
            seed=config.get_oneway_ref("seed"),
            seeds=config.get_oneway_ref("seeds"),  # the same
            eval_every=config.get_oneway_ref("eval_every"),  # the same
            model="",  # of `python -m experiments.models`, or package.module:factory
            # Further attributes, such as stem="imagenet". They are set as a whole: a layer shares
            # its options with what inherits from it.
            model_options=ConfigDict().lock(),
            dtype="float32",  # of the computation: float32 or bfloat16
            mean=(),  # of the normalisation, per channel, of pixels in [0, 1]; () measures it
            std=(),  # the same
            checkpoint="",  # load the network from here and do not train it
            # Earlier phases: nothing is trained, and what is evaluated is the mean of their
            # networks' probabilities.
            ensemble=(),
            init_from="",  # initial variables: a file, the folder of a phase, an earlier phase
            # How much of them: 0 is the model's own initialisation, and values between are points
            # on the line that joins the two.
            init_mix=1.0,
            # Before the first step, renew the running averages of batch norm by one pass over the
            # training images.
            reestimate_batch_norm=False,
            init_methods_from="",  # initial variables of the methods: a phase, in the same form
            # An earlier phase that this one goes on from: student, methods, optimiser and the
            # position in the learning rate's schedule.
            continue_from="",
            teachers=(),  # earlier phases, or folders of phases of other runs
            compared_with=(),  # the same: networks that the phase is measured against
            teacher_batch_norm="running",  # averages, as in evaluation, or those of the batch
            # Terms by name, each with a `weight`, which may have a `schedule`, and the arguments of
            # its method: that of the same name, or `method`, which may be module:factory.
            objective=ConfigDict({"cross_entropy": {"weight": 1.0}}, sort_keys=False),
            # If not empty, the phase learns without data, from a generator;
            # `experiments.tasks.data_free.Settings` lists the keys.
            adversarial=ConfigDict(sort_keys=False),
            # What a phase learns from, instead of the training split of `data`. Without a name
            # there is none. Without `labels`, objective terms can be `on` labelled or unlabelled
            # images only; `examples` is a fixed random subset, `resize` the side in pixels (0 is
            # that of `data`).
            images=dict(name="", dir="", split="train", resize=0, examples=0, labels=True),
            # What it sees beside that, `share` of each batch, in the same form.
            more_images=dict(
                name="", dir="", split="train", resize=0, examples=0, labels=False, share=0.5
            ),
            # Which images of the training split a phase learns from: some of `parts` equal random
            # parts, such as part=(0,) of parts=2, and of these `examples` (0 is all), or so many
            # of each class. The choice depends on `seed` alone.
            subset=dict(parts=1, part=(), seed=0, examples=0, per_class=()),
            shots=0,  # training images per class, a fixed random subset; 0 is all
            shots_per_seed=False,  # each seed draws a subset of its own
            epochs=10.0,  # over what the phase learns from
            steps=0,  # instead of epochs, if positive
            # Conditions that end the phase, by name: `over`, one of `compared_with`, and `margin`,
            # by which the validation accuracy is larger than its (`below`: at most so much).
            until=ConfigDict(sort_keys=False),
            early_stopping=0,  # evaluations without a better validation accuracy; 0 is never
            batch_size=128,  # images in a step, on all devices together
            grad_accum_steps=1,  # parts into which a batch is cut to save memory
            sync_batch_norm=True,  # average the statistics of a batch over the devices
            ema_decay=0.0,  # of an average of the weights that is evaluated; 0 keeps none
            select="last",  # or best, on the validation split
            # Epochs after which the network is kept; other phases call it NAME@EPOCH, such as
            # teacher@50, and teacher@0 is the network before its first step.
            keep=(),
            # Training images, a fixed random subset, on which the network is also measured at every
            # evaluation (`train_eval/...`); 0 for none.
            train_eval_images=0,
            optimizer=dict(
                name="sgd",
                learning_rate=0.1,
                momentum=0.9,
                nesterov=False,
                weight_decay=5e-4,
                decoupled=False,
                decay_mask="all",
                grad_clip_norm=0.0,
            ),
            # It is laid out over `horizon` epochs, or the length of the phase.
            schedule=dict(
                name="cosine",
                warmup=0.0,
                boundaries=(),
                decay_rate=0.1,
                unit="epochs",
                horizon=0.0,
            ),
            # How alike the boundaries of a student and its first teacher are: images to measure
            # it on, at most (0 does not measure it), steps, and their size.
            transition_curves=dict(images=0, steps=100, step_size=1.0),
            augment=dict(
                teacher_view="consistent",
                # With a fixed view: number of crops, such as the student's, over which the
                # teacher's predictions are averaged, once per image; 0 is the central square.
                teacher_crops=0,
                # Side in pixels of what the teachers see, one for all or one for each; 0 is that of
                # the student's views.
                teacher_size=(),
                crop="padded",  # none, padded, random (a window) or inception
                padding=4,
                scale=(0.05, 1.0),
                flip=True,
                rotation=0.0,  # degrees, at most
                vertical_flip=False,
                jitter=0.0,  # of brightness, contrast, saturation and hue, at most
                noise=0.0,  # probability that an image is replaced by uniform noise
                crop_last=False,  # after rotation, vertical flip and jitter; flip, too
                cutout=0,
                mixup=0.0,
                mixup_weight="batch",
                # autoaugment_cifar10, randaugment or uda_randaugment; crop, flip and cutout come
                # before or after it as in the code that published it.
                policy="",
                policy_ops=3,  # operators per image, of randaugment
                policy_magnitude=5.0,  # in [0, 30], of randaugment
            ),
            # More views of every image in a step, by name, as changes to `augment`. The loss is
            # the mean over all views, each with a forward pass and batch statistics of its own.
            extra_views=ConfigDict(sort_keys=False),
        )
    )
    # One teacher for all students; `--config.teacher.seeds` trains one for each.
    config.teacher = inherit(config.train, seeds=())
    config.student = inherit(config.train)
    config.phases = ConfigDict(sort_keys=False)
    # Tables and figures that the run ends in, by name (`configs.tables`).
    config.report = ConfigDict(sort_keys=False)
    return config


def inherit(parent: ConfigDict, **changes: Any) -> ConfigDict:
    """A copy of `parent` whose keys follow the parent's unless they are changed.

    Args:
      parent: a layer, or a group of one.
      **changes: new values. A change to a group is a dict of what differs in it, except
        that `objective`, `adversarial`, `model_options`, `until` and `extra_views` are
        replaced as a whole.

    Raises:
      UserError: on an unknown key; one that was renamed is named.
    """
    child = ConfigDict(sort_keys=False)
    for key in parent:
        value = parent[key]
        if key == "model_options":
            child[key] = parent.get_oneway_ref(key)
            if key in changes:
                child[key] = ConfigDict(changes.pop(key))
        elif key in ("objective", "adversarial", "until", "extra_views"):
            child[key] = ConfigDict(changes.pop(key, value.to_dict()), sort_keys=False)
        elif isinstance(value, ConfigDict):
            child[key] = inherit(value, **changes.pop(key, {}))
        else:
            child[key] = parent.get_oneway_ref(key)
    for key, value in changes.items():
        legacy.check_renamed([f"train.{key}"])
        if key not in child:
            raise UserError(f"unknown config key {key!r}: choose from {', '.join(child)}")
        child[key] = value
    return child


def arguments(arg: str | None, **defaults: Any) -> ConfigDict:
    """Parses what follows the colon in `configs/file.py:a=1,b=x`.

    Args:
      arg: the text after the colon, or None. A first item without `=` is the value of the
        first default.
      **defaults: the arguments that there are; values have the types of these.

    Raises:
      UserError: on an unknown argument or a value of another type.
    """
    parsed = dict(defaults)
    for i, item in enumerate(filter(None, (arg or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals and i == 0:
            key, value = next(iter(defaults)), key
        if key not in defaults:
            raise UserError(f"unknown config argument {key!r}: choose from {', '.join(defaults)}")
        kind = type(defaults[key])
        try:
            parsed[key] = kind(value)
        except ValueError:
            raise UserError(f"config argument {key}={value!r} is not {kind.__name__}") from None
    return ConfigDict(parsed)
