"""What a run is (model, training) and how it is made (run): complete, frozen, checked.

A preset is a TOML file with the sections ``[model]``, ``[training]``, ``[optimizer]``,
``[schedule]`` and, if weights are averaged, ``[averaging]``. A run folder's ``config.toml`` has
also ``[run]``, so that ``--config runs/x/config.toml`` repeats a run.
No key has a default outside this file.
"""

import difflib
import json
import math
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ptb_lm.errors import InputError
from ptb_lm.paths import named_path, named_user_path, path_name, path_text, user_path
from ptb_lm.regular import read_small

FLOAT32_MAX = 3.4e38
LONGEST_SHOWN = 200

BUILT_IN = ("ptb", "synthetic")
"""Names that ``run.data`` may have; any other is a folder."""

MOST_LAYERS = 100

LARGEST_FILE = 1 << 20
"""Bytes of a config; ours have about 1,000."""

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, le=FLOAT32_MAX, allow_inf_nan=False)]
# Any constraint makes pydantic refuse lone surrogates as well, which config.toml could not hold.
Name = Annotated[str, Field(min_length=1)]


# RecursionError: of brackets nested a thousand deep; ValueError: of a number of 5,000 digits.
NOT_TOML = (tomllib.TOMLDecodeError, RecursionError, ValueError)


class Section(BaseModel):
    """A frozen section in which an unknown key or a value of another type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Fraction = Annotated[float, Field(ge=0, lt=1)]


class DropoutRates(Section):
    """The probability of dropping a value, by the place where it is dropped."""

    words: Fraction
    """A word's embedding as a whole, all through a window: variational dropout only."""
    input: Fraction
    """The embedding on its way into layer 1."""
    between: Fraction
    """h on its way into the next layer."""
    output: Fraction
    """The top layer's h on its way into the softmax."""
    recurrent: Fraction
    """h[l, t-1] on its way into the same layer's next step: not in the paper's dropout."""


def _one_rate_or_several(value: object) -> str:
    return "several" if isinstance(value, dict | DropoutRates) else "one"


class ModelConfig(Section):
    """The network (paper, section 3 and 4.1)."""

    cell: Literal["lstm", "gru", "rnn-tanh", "rnn-sigmoid"]
    """``lstm`` (paper, section 3), ``gru``, or a classic RNN: ``rnn-tanh``, ``rnn-sigmoid``."""
    embedding_size: PositiveInt | None = None
    """E: the width of the embedding; by default the units of the first layer."""
    hidden_sizes: (
        Annotated[list[PositiveInt], Field(min_length=1, max_length=MOST_LAYERS)] | None
    ) = None
    """The units of each layer, such as ``[1150, 1150, 400]``, in place of ``layers`` and
    ``hidden_size``."""
    layers: Annotated[int, Field(gt=0, le=MOST_LAYERS)]
    """L: how many are stacked."""
    hidden_size: PositiveInt
    """H: the units of each layer; with ``hidden_sizes``, those of the last."""
    dropout: Annotated[
        Annotated[Fraction, Tag("one")] | Annotated[DropoutRates, Tag("several")],
        Discriminator(_one_rate_or_several),
    ]
    """The probability of dropping a unit: one for every place that ``dropout_on`` names, or a table
    with one for each."""
    dropout_on: Annotated[
        Literal["non-recurrent", "all", "none", "variational"], Field(validate_default=True)
    ] = "non-recurrent"
    """``non-recurrent``: on each of the L+1 non-recurrent connections, as in the paper. ``all``: on
    the recurrent ones too, with a fresh mask at each step. ``variational``: there and on words,
    with one mask for all steps of a window (arXiv 1512.05287). ``none``: nowhere."""
    masks_per_gate: bool = False
    """With ``variational``: each gate has masks of its own for the layer's input and h ("untied
    weights" in arXiv 1512.05287)."""
    tied: bool = False
    """Embedding and softmax are one matrix (arXiv 1608.05859)."""
    init_range: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    """Every parameter, biases too, is drawn uniformly from (-init_range, init_range)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_layers(cls, table: object) -> object:
        """Take ``layers`` and ``hidden_size`` from ``hidden_sizes`` where they are missing."""
        sizes = table.get("hidden_sizes") if isinstance(table, dict) else None
        if not isinstance(sizes, list) or not sizes:
            return table
        return {"layers": len(sizes), "hidden_size": sizes[-1], **cast(dict[str, Any], table)}

    @field_validator("layers")
    @classmethod
    def _layers_agree(cls, layers: int, others: ValidationInfo) -> int:
        sizes = others.data.get("hidden_sizes")
        if sizes and layers != len(sizes):
            raise ValueError(f"{len(sizes)}, as hidden_sizes has, or no hidden_sizes")
        return layers

    @field_validator("hidden_size")
    @classmethod
    def _sizes_agree(cls, hidden_size: int, others: ValidationInfo) -> int:
        sizes = others.data.get("hidden_sizes")
        if sizes and hidden_size != sizes[-1]:
            raise ValueError(f"{sizes[-1]}, the last of hidden_sizes, or no hidden_sizes")
        return hidden_size

    @field_validator("dropout")
    @classmethod
    def _there_is_a_between(cls, dropout: float | DropoutRates, others: ValidationInfo) -> object:
        if isinstance(dropout, DropoutRates) and dropout.between and others.data.get("layers") == 1:
            raise ValueError("between = 0, as one layer has none after it")
        return dropout

    @field_validator("dropout_on")
    @classmethod
    def _every_rate_acts(cls, dropout_on: str, others: ValidationInfo) -> str:
        """Refuse a rate at a place where nothing would be dropped."""
        rates = others.data.get("dropout")
        if isinstance(rates, DropoutRates):
            for place, rate in rates:
                if rate and place not in PLACES[dropout_on]:
                    raise ValueError(f"one that drops at the place of dropout.{place} = {rate}")
        return dropout_on

    @field_validator("masks_per_gate")
    @classmethod
    def _masks_per_gate_are_variational(cls, masks_per_gate: bool, others: ValidationInfo) -> bool:
        if masks_per_gate and others.data.get("dropout_on", "variational") != "variational":
            raise ValueError("false, or dropout_on = 'variational' beside it")
        if masks_per_gate and others.data.get("cell") in ("rnn-tanh", "rnn-sigmoid"):
            raise ValueError("false, as a classic RNN has no gates")
        return masks_per_gate

    @field_validator("tied")
    @classmethod
    def _tied_widths_are_equal(cls, tied: bool, others: ValidationInfo) -> bool:
        width, units = others.data.get("embedding_size"), others.data.get("hidden_size")
        first = (others.data.get("hidden_sizes") or [units])[0]
        if tied and (width or first) != units:
            raise ValueError(f"false, or an embedding as wide as the last layer, {units}")
        return tied

    @property
    def sizes(self) -> list[int]:
        """The widths [E, H1, …, HL] of the embedding and of each layer."""
        units = self.hidden_sizes or [self.hidden_size] * self.layers
        return [self.embedding_size or units[0], *units]

    @property
    def sizes_text(self) -> str:
        """The widths as a message names them, such as ``2 layers of 200 units``."""
        width, *units = self.sizes
        layers = "1 layer" if len(units) == 1 else f"{len(units)} layers"
        named = units[:1] if len({*units}) == 1 else units
        text = f"{layers} of {', '.join(f'{size:,}' for size in named)} units"
        return text if width == units[0] else f"{text}, an embedding of {width:,}"

    @property
    def dropout_rates(self) -> DropoutRates:
        """The rate at each place, 0 where nothing is dropped."""
        if isinstance(self.dropout, DropoutRates):
            return self.dropout
        acting = PLACES[self.dropout_on]
        rates = {name: self.dropout if name in acting else 0.0 for name in PLACES["variational"]}
        return DropoutRates(**rates)

    @property
    def has_dropout(self) -> bool:
        """Whether anything is dropped at any place."""
        return any(rate for _, rate in self.dropout_rates)

    @property
    def has_dropout_of_units(self) -> bool:
        """Whether anything is dropped but whole words."""
        return any(rate for place, rate in self.dropout_rates if place != "words")


PLACES = {
    "none": (),
    "non-recurrent": ("input", "between", "output"),
    "all": ("input", "between", "output", "recurrent"),
    "variational": ("words", "input", "between", "output", "recurrent"),
}
"""Where dropout acts, by ``model.dropout_on``."""


class TrainingConfig(Section):
    """How the training text is read (paper, section 4.1)."""

    batch_size: PositiveInt
    """B: the number of streams (columns) that the corpus is cut into."""
    unrolled_steps: PositiveInt
    """T: the steps of truncated backpropagation through time."""
    epochs: PositiveInt
    """How often the training text is read."""


class SgdConfig(Section):
    """Plain SGD (paper, section 4.1)."""

    kind: Literal["sgd"]
    learning_rate: PositiveFloat
    """The learning rate that the schedule begins from. The objective is a sum over the T steps."""
    clip_norm: PositiveFloat
    """The greatest global norm of the gradient of the objective."""
    weight_decay: Fraction = 0.0
    """The share of every parameter that is taken from it after each step, whatever the rate."""


class AdamConfig(Section):
    """Adam (arXiv 1412.6980), or AdamW (arXiv 1711.05101)."""

    kind: Literal["adam", "adamw"]
    learning_rate: PositiveFloat
    """The greatest learning rate of the schedule."""
    clip_norm: PositiveFloat
    """The greatest global norm of the gradient of the objective."""
    weight_decay: Fraction = 0.0
    """``adam``: the factor of the parameters in the gradient. ``adamw``: the share of every
    parameter, times the rate, that is taken from it at each step."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """The decay rates of the two moments of the gradient."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment, by which the step is divided."""


OptimizerConfig = Annotated[SgdConfig | AdamConfig, Discriminator("kind")]


class ConstantThenDecayConfig(Section):
    """The paper's schedule: constant, then divided by the same number at each epoch."""

    kind: Literal["constant-then-decay"]
    constant_epochs: Annotated[int, Field(ge=0, lt=2**31)]
    """How many epochs the rate stays as it is before it decays."""
    decay: PositiveFloat
    """What the rate is divided by at each epoch after ``constant_epochs``."""


class ConstantConfig(Section):
    """The same rate throughout."""

    kind: Literal["constant"]


class LinearToZeroConfig(Section):
    """Constant, then a straight line to 0 at the end of the training."""

    kind: Literal["linear-to-zero"]
    constant_epochs: Annotated[float, Field(ge=0, lt=2**31)] = 0.0
    """How many epochs the rate stays as it is."""


class CosineConfig(Section):
    """A straight line up, then half a cosine down (arXiv 1608.03983, without restarts)."""

    kind: Literal["cosine"]
    warmup_epochs: Annotated[float, Field(ge=0, lt=2**31)] = 0.0
    """How many epochs the rate grows from 0."""
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of the rate that is left at the end."""


class OneCycleConfig(Section):
    """A straight line up, one down of the same length, then one to 0 (arXiv 1708.07120)."""

    kind: Literal["one-cycle"]
    initial_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of the rate that the cycle begins and ends with."""
    final_phase: Fraction = 0.1
    """The share of the training in which the rate falls to 0 after the cycle."""


ScheduleConfig = Annotated[
    ConstantThenDecayConfig | ConstantConfig | LinearToZeroConfig | CosineConfig | OneCycleConfig,
    Discriminator("kind"),
]


class NoAveragingConfig(Section):
    """The weights of the last step are used."""

    kind: Literal["none"]


class NtAsgdConfig(Section):
    """NT-ASGD (arXiv 1708.02182): the mean of the weights since validation has levelled off."""

    kind: Literal["nt-asgd"]
    non_monotone_epochs: PositiveInt = 5
    """Averaging begins after an epoch whose validation perplexity is above the lowest one of the
    epochs that lie more than this many epochs before it."""


class TailConfig(Section):
    """The mean of the weights after each step from an epoch on."""

    kind: Literal["tail"]
    from_epoch: PositiveInt
    """The first epoch whose steps count."""


class EmaConfig(Section):
    """The exponential moving average of the weights after each step."""

    kind: Literal["ema"]
    decay: Annotated[float, Field(gt=0, lt=1)]
    """The share of the average that stays at each step."""


AveragingConfig = Annotated[
    NoAveragingConfig | NtAsgdConfig | TailConfig | EmaConfig, Discriminator("kind")
]

KINDS: dict[str, dict[str, type[Section]]] = {
    "optimizer": {"sgd": SgdConfig, "adam": AdamConfig, "adamw": AdamConfig},
    "schedule": {
        "constant-then-decay": ConstantThenDecayConfig,
        "constant": ConstantConfig,
        "linear-to-zero": LinearToZeroConfig,
        "cosine": CosineConfig,
        "one-cycle": OneCycleConfig,
    },
    "averaging": {
        "none": NoAveragingConfig,
        "nt-asgd": NtAsgdConfig,
        "tail": TailConfig,
        "ema": EmaConfig,
    },
}
"""The sections that have a ``kind``, with the keys of each kind; the first is the default."""

FORMER_KEYS = {
    ("training", "learning_rate"): ("optimizer", "learning_rate"),
    ("training", "clip_norm"): ("optimizer", "clip_norm"),
    ("training", "weight_decay"): ("optimizer", "weight_decay"),
    ("training", "constant_epochs"): ("schedule", "constant_epochs"),
    ("training", "decay"): ("schedule", "decay"),
}
"""Where keys of former versions stand now; both are read."""


class RunOptions(Section):
    """How a run is made: options of the command line, recorded with the run."""

    config: Name
    """The name of the preset, or the stem of the file, that the run began from."""
    # A folder whose path is not UTF-8 is recorded as its URI, see `path_name`.
    data: Name = "ptb"
    """``ptb``, ``synthetic`` or a folder with train.txt, valid.txt and maybe test.txt."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """For all random numbers: weights and masks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU where there is one."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """``fp32``: float32 in every product. ``tf32``: likewise, but on CUDA their factors are rounded
    to TF32. ``bf16``: products of bfloat16, weights and sums in float32. ``auto``: ``tf32`` on
    CUDA, ``fp32`` elsewhere; a run records which."""
    deterministic: bool = False
    """Take only algorithms that give the same bits each time. On a CPU all do; on CUDA some are
    slower."""
    log_steps: PositiveInt = 200
    """A line of metrics is written every this many steps, and at each epoch's end."""
    checkpoint_minutes: PositiveFloat = 10.0
    """A checkpoint is written when the last is this many minutes old, and at each epoch's end."""


class Config(Section):
    """A run, complete."""

    model: ModelConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    averaging: AveragingConfig
    run: RunOptions

    @model_validator(mode="before")
    @classmethod
    def _of_former_versions(cls, table: object) -> object:
        return migrated(table) if isinstance(table, dict) else table

    @model_validator(mode="after")
    def _rates_stay_numbers(self) -> "Config":
        """Refuse a schedule that leaves the range of floats in some epoch yet to come."""
        if isinstance(self.schedule, ConstantThenDecayConfig):
            epochs, rate = self.training.epochs, self.optimizer.learning_rate
            try:
                last = rate * self.schedule.decay ** -max(0, epochs - self.schedule.constant_epochs)
            except OverflowError:
                last = math.inf
            if last > FLOAT32_MAX:
                raise ValueError(
                    "schedule.decay: expected one that leaves the rate of epoch "
                    f"{epochs:,} within float32, got {self.schedule.decay!r}"
                )
        return self

    def with_options(self, **options: object) -> "Config":
        """Return it with other options of ``[run]``."""
        run = self.run.model_copy(update=options)
        return self.model_copy(update={"run": run})

    @property
    def run_name(self) -> str:
        """What the run is called: its config, its seed, and its precision if that is unusual."""
        usual = self.run.precision in ("auto", "fp32")
        precision = "" if usual else f"-{self.run.precision}"
        return f"{self.run.config}{precision}-seed{self.run.seed}"


ConfigType = TypeVar("ConfigType", bound=Config)


def presets_folder() -> Traversable:
    """Return the registry: the folder ``configs``, inside the wheel or beside the package."""
    installed = resources.files("ptb_lm") / "configs"
    if installed.is_dir():
        return installed
    return Path(__file__).parent.parent / "configs"


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    files = (entry.name for entry in presets_folder().iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def preset_headline(name: str) -> str:
    """Return the first line of a preset's header, which says what the preset is."""
    text = (presets_folder() / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].removeprefix("#").strip()


def resolve(
    name_or_file: str, assignments: list[str] | None = None, options: dict[str, Any] | None = None
) -> Config:
    """Resolve a preset or file, ``--set`` assignments and command-line options into a run.

    Args:
        name_or_file: a preset's name or the path of a TOML file.
        assignments: ``section.key=value``, the value as TOML or as a bare word.
        options: keys of ``[run]`` given on the command line; they win over the file's.

    Raises:
        InputError: naming the key or file, what it got, what it wanted, the nearest name; or an
            assignment contradicts an option. Of two assignments to a key the last counts.
    """
    table, name, origin = _read(name_or_file)
    try:
        table = migrated(table)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from None
    table.setdefault("run", {}).setdefault("config", name)
    _expand_home(table["run"])
    given = {("run", key): _recorded(("run", key), value) for key, value in (options or {}).items()}
    origins = {path: f"--{path[1]}" for path in given}
    changes = given.copy()
    for assignment in assignments or []:
        path, value = _parse_assignment(assignment)
        path = FORMER_KEYS.get(path, path)
        value, origin_of_value = _recorded(path, value), f"--set {_cut(assignment)}"
        if path not in given:
            origins[path] = origin_of_value
        elif not _same(path, given[path], value):
            raise InputError(
                f"{_option(path, given[path])} and {origin_of_value}: they contradict each other; "
                "leave one of them out"
            )
        changes[path] = value
    for section, kinds in KINDS.items():
        kind = changes.get((section, "kind"))
        if isinstance(kind, str) and kind in kinds and isinstance(table.get(section), dict):
            keys = kinds[kind].model_fields
            table[section] = {key: table[section][key] for key in table[section] if key in keys}
    sizes = changes.get(("model", "hidden_sizes"))
    if isinstance(sizes, list) and sizes:  # in place of what the file says
        for key in ("layers", "hidden_size"):
            table.get("model", {}).pop(key, None)
    for (section, key), value in changes.items():
        table.setdefault(section, {})[key] = value
    return validated(Config, table, origin, origins)


def _recorded(path: tuple[str, str], value: Any) -> Any:
    """Return a value given on the command line as the config records it: text that is UTF-8."""
    if not isinstance(value, str):
        return value
    return path_name(value) if path == ("run", "data") else path_text(value)


def _option(path: tuple[str, str], value: Any) -> str:
    """Return an option of the command line as it was given; a flag has no value."""
    return f"--{path[1]}" if value is True else f"--{path[1]} {_cut(str(value))}"


def _expand_home(run: dict[str, Any]) -> None:
    """Expand a leading ``~`` of ``run.data`` in a file; another machine may lack the user."""
    data = run.get("data")
    if isinstance(data, str) and data.startswith("~"):
        with suppress(InputError):
            run["data"] = path_name(named_user_path(data))


def _same(path: tuple[str, str], one: Any, other: Any) -> bool:
    """Whether two values given for one key are the same; 1, 1.0 and true are not."""
    if type(one) is not type(other):
        return False
    if path == ("run", "data") and not {one, other} & {*BUILT_IN}:
        return os.path.realpath(named_path(one)) == os.path.realpath(named_path(other))
    return bool(one == other)


def validated(
    kind: type[ConfigType],
    table: dict[str, Any],
    origin: str,
    origins: Mapping[tuple[str, str], str] | None = None,
) -> ConfigType:
    """Check the sections of a config, and whatever more a kind of config has.

    Args:
        kind: of config.
        table: its sections.
        origin: the file that they are from.
        origins: where else keys are from, by section and key.

    Raises:
        InputError: naming the key or file, what it got, what it wanted, the nearest name.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise InputError(_describe(error, kind, origin, origins or {})) from None


def load_config(path: Path) -> Config:
    """Read the ``config.toml`` of a run folder; a key of ``[run]`` that it lacks has its default.

    Raises:
        InputError: the file is missing, not TOML, or lacks a key of another section.
    """
    return resolve(str(path))


def to_toml(config: BaseModel) -> str:
    """Write the sections of a config as TOML that :func:`resolve` reads back to the same."""
    lines: list[str] = []
    for section, values in config.model_dump(exclude_none=True).items():
        lines += [
            f"[{section}]",
            *(f"{key} = {toml_value(value)}" for key, value in values.items()),
        ]
        lines.append("")
    return "\n".join(lines)


class Recipe(Section):
    """The sections of a preset: all of a run's config except how it is made."""

    model: ModelConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    averaging: AveragingConfig


def recipe_of(config: Config) -> Recipe:
    """Return the part of a config that a preset holds."""
    return Recipe(**{name: getattr(config, name) for name in Recipe.model_fields})


def migrated(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a config with the keys of former versions where they stand now.

    Raises:
        ValueError: a key stands in both places.
    """
    sections = {
        name: dict(values) if isinstance(values, Mapping) else values
        for name, values in table.items()
    }
    for (section, key), (new_section, new_key) in FORMER_KEYS.items():
        former = sections.get(section)
        if not isinstance(former, dict) or key not in former:
            continue
        present = sections.setdefault(new_section, {})
        if not isinstance(present, dict):
            continue
        if new_key in present:
            raise ValueError(f"{section}.{key}: is {new_section}.{new_key} now; leave one out")
        present[new_key] = former.pop(key)
    for name, kinds in KINDS.items():
        values = sections.setdefault(name, {})
        if isinstance(values, dict):
            sections[name] = {"kind": next(iter(kinds)), **values}
    return sections


def _read(name_or_file: str) -> tuple[dict[str, Any], str, str]:
    """Return a file's sections, the config's name, and what to call the file in a message."""
    is_preset, path = name_or_file in preset_names(), Path(name_or_file)
    if not is_preset:
        path = user_path(name_or_file)
        if not os.path.isfile(path):  # noqa: PTH113 - Path's raises of too long a name
            raise InputError(_no_such_config(name_or_file))
    try:
        if is_preset:
            data = (presets_folder() / f"{name_or_file}.toml").read_bytes()
        else:
            data = read_small(path, LARGEST_FILE)
        table = tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{name_or_file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name_or_file}: not UTF-8 at byte {error.start}") from None
    except NOT_TOML as error:
        raise InputError(f"{name_or_file}: not valid TOML: {error}") from None
    for section, values in table.items():
        if not isinstance(values, dict):
            name = _cut(section)
            raise InputError(f"{name_or_file}: {name}: expected a section [{name}]")
    return table, path_text(Path(name_or_file).stem), name_or_file


def _no_such_config(name: str) -> str:
    if name.endswith(".toml") or "/" in name:
        return f"{name}: no such config file"
    hint = _did_you_mean(name, preset_names())
    return f"config {name!r}: no such preset or file{hint}; presets: {', '.join(preset_names())}"


def _parse_assignment(assignment: str) -> tuple[tuple[str, str], Any]:
    key, equals, text = assignment.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        sections = [
            each for each in Config.model_fields if section in _known_names(Config, (each, ""))
        ]
        hint = f"; did you mean {sections[0]}.{section}?" if sections and equals and not dot else ""
        raise InputError(f"--set {_cut(assignment)}: expected section.key=value{hint}")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except NOT_TOML:
        value = text.strip()  # a bare word, as in model.cell=lstm
    return (section, name), value


def _describe(
    error: ValidationError,
    kind: type[Config],
    file_origin: str,
    origins: Mapping[tuple[str, str], str],
) -> str:
    """Turn pydantic's first complaint into one line of ours; a typo is what misses its key."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    location = tuple(str(part) for part in first["loc"])
    if not location:
        message = first["msg"].removeprefix("Value error, ")
        given = [origins[path] for path in origins if message.startswith(f"{'.'.join(path)}:")]
        return f"{given[0] if given else file_origin}: {message}"
    # Which of several kinds it was taken for is no part of the key.
    taken_for: type[Section] | None = None
    if location[:2] == ("model", "dropout"):
        location = location[:2] + location[3:]
    elif location[0] in KINDS and len(location) > 1:
        taken_for = KINDS[location[0]].get(location[1])
        location = location[:1] + location[2:]
    key = _cut(".".join(location))
    # Of a whole section: the assignment that may have brought it in.
    given = [origins[path] for path in origins if location[:2] == path or location == path[:1]]
    origin = given[0] if given else file_origin
    if first["type"] == "extra_forbidden":
        known = _known_names(kind, location) if taken_for is None else [*taken_for.model_fields]
        hint = _did_you_mean(location[-1], known)
        if location[-1].startswith("dropout."):
            hint = "; a table is set as a whole: --set 'model.dropout={ words = 0.2, … }'"
        return f"{origin}: {key}: unknown key{hint}; known: {', '.join(known)}"
    if first["type"] == "missing":
        if location[0] not in Config.model_fields:
            return f"{origin}: {key}: missing"
        return f"{origin}: {key}: missing; a config is complete: see `ptb-lm config show small`"
    if first["type"].startswith("union_tag"):  # in a section that has a kind
        kinds = " or ".join(repr(name) for name in KINDS[key])
        given_kind = first["input"].get("kind") if isinstance(first["input"], dict) else None
        return f"{origin}: {key}.kind: expected {kinds}, got {_shown(given_kind)}"
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    wanted = wanted.removeprefix("String should have ").removeprefix("Value error, ")
    wanted = wanted.removeprefix("List should have ")
    return f"{origin}: {key}: expected {wanted}, got {_shown(first['input'])}"


def _shown(value: object) -> str:
    """Return a value as a message shows it: at no great length."""
    try:
        text = repr(value)
    except ValueError:  # which Python raises of an integer of thousands of digits
        return "a number of thousands of digits"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _known_names(kind: type[Config], location: tuple[str, ...]) -> list[str]:
    if len(location) == 1:
        return list(kind.model_fields)
    if location[:2] == ("model", "dropout"):
        return list(DropoutRates.model_fields)
    if location[0] in KINDS:
        kinds = KINDS[location[0]].values()
        return list(dict.fromkeys(key for kind in kinds for key in kind.model_fields))
    section = Config.model_fields[location[0]].annotation
    assert isinstance(section, type) and issubclass(section, Section)
    return list(section.model_fields)


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def toml_value(value: object) -> str:
    """Write a value of a config as TOML, which ``--set`` takes too; an absent one as ``none``."""
    if value is None:
        return "none"
    if isinstance(value, str):
        # A JSON string is a TOML basic string but for the one control character JSON leaves bare.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml_value(part)}' for key, part in value.items())} }}"
    return repr(value)
