"""`edgemodel compress model.onnx --max-quality-drop 0.5% …`: options → the manifest that means the same.

`edgemodel.compress()` takes the same words. What is wrong with the files themselves is in `given_files`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgemodel_api import API_VERSION
from edgemodel_api.complaints import explain
from edgemodel_api.edgemodel import Activations, EdgeModel, Precision, Structure
from edgemodel_api.errors import InputError
from edgemodel_api.yaml_text import dump

from .given_files import check_data, check_model
from .manifest_file import ManifestFile, digested

#: Where an option goes in the manifest: also how a complaint about a field finds its option.
FIELDS = {
    "validation": ("data", "validation", "uri"),
    "labels": ("data", "validation", "labels"),
    "metric": ("data", "validation", "metric"),
    "k": ("data", "validation", "k"),
    "judged_output": ("data", "validation", "output"),
    "calibration": ("data", "calibration", "uri"),
    "training": ("data", "training", "uri"),
    "training_labels": ("data", "training", "labels"),
    "objective": ("compression", "objective"),
    "max_quality_drop": ("compression", "budget", "maxQualityDrop"),
    "max_size": ("compression", "budget", "maxSize"),
    "max_latency": ("compression", "budget", "maxLatency"),
    "max_memory": ("compression", "budget", "maxMemory"),
    "max_slowdown": ("compression", "budget", "maxSlowdown"),
    "search_timeout": ("compression", "search", "timeout"),
    "max_candidates": ("compression", "search", "maxCandidates"),
    "formats": ("formats",),
}
#: Options that are part of a step, in the order in which steps are applied; the first of a step makes it.
STEPS = {
    "distill": ("distill", "method"),
    "student": ("distill", "student", "uri"),
    "student_width": ("distill", "student", "width"),
    "student_depth": ("distill", "student", "depth"),
    "student_rank": ("distill", "student", "rank"),
    "distill_epochs": ("distill", "epochs"),
    "prune": ("prune", "sparsity"),
    "structure": ("prune", "structure"),
    "recover_epochs": ("prune", "recover", "epochs"),
    "quantize": ("quantize", "precision"),
    "activations": ("quantize", "activations"),
}
DATA = ("validation", "calibration", "training")
#: `--prune 2:4` is a pattern, `--prune 60%` a sparsity.
_PATTERN = ("prune", "pattern")
_FLAGS = {"formats": "--format"}
#: Behind a field's name in a message: it goes on in no other word.
_END = r"(?![\w-]|\.\w)"


@dataclass(frozen=True)
class ModelOptions:
    """What a command line says of a model; texts as in a manifest. Absent: the manifest's default.

    Attributes:
        distill, prune, quantize: a step by its first word, or all its fields as in a manifest.
        steps: all steps as in a manifest, instead of the options for them.
    """

    model: Path
    validation: Path | None = None
    labels: str | None = None
    metric: str | None = None
    k: int | None = None
    judged_output: str | None = None
    calibration: Path | None = None
    training: Path | None = None
    training_labels: str | None = None
    objective: str | None = None
    max_quality_drop: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    max_memory: str | None = None
    max_slowdown: str | None = None
    search_timeout: str | None = None
    max_candidates: int | None = None
    formats: tuple[str, ...] | None = None
    distill: str | Mapping[str, Any] | None = None
    student: Path | None = None
    student_width: str | None = None
    student_depth: str | None = None
    student_rank: str | None = None
    distill_epochs: int | None = None
    prune: str | Mapping[str, Any] | None = None
    structure: str | None = None
    recover_epochs: int | None = None
    quantize: str | Mapping[str, Any] | None = None
    activations: str | None = None
    steps: tuple[Mapping[str, Any], ...] | None = None

    def given(self) -> tuple[str, ...]:
        """The options that were given, as they are typed."""
        return given({name: getattr(self, name) for name in (*FIELDS, *STEPS)})


def given(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of these options that say something, as they are typed."""
    return tuple(flag(name) for name, value in options.items() if value is not None and value != ())


def flag(name: str) -> str:
    """How an option is typed.

    >>> flag("max_size"), flag("formats")
    ('--max-size', '--format')
    """
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def manifest_of(options: ModelOptions) -> dict[str, Any]:
    """The manifest, as a mapping.

    Raises:
        InputError: options that only go together are not.
    """
    _check_together(options)
    spec: dict[str, Any] = {"source": {"uri": _uri(options.model)}}
    for name, path in FIELDS.items():
        value = getattr(options, name)
        if value is not None and value != ():
            _set(spec, path, _plain(value))
    steps = [dict(step) for step in options.steps] if options.steps else _steps(options)
    if steps:
        spec.setdefault("compression", {})["steps"] = steps
    return {"apiVersion": API_VERSION, "kind": "EdgeModel", "metadata": {"name": name_of(options.model)}, "spec": spec}


def edge_model(options: ModelOptions) -> EdgeModel:
    """The same, checked.

    Raises:
        InputError: one line for each option that is wrong: what it was, and what would do.
    """
    value = manifest_of(options)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        for name, field in ((n, getattr(options, n)) for n in (*FIELDS, *STEPS, "steps")):
            if not _is_text(field):
                raise InputError(f"{flag(name)} {field!r}: give texts and numbers, as in a manifest") from None
        raise
    try:
        return EdgeModel.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        complaints = explain(error, value)
        raise InputError(
            "\n".join(
                dict.fromkeys(
                    f"{_option(options, value, path)}: {in_options(text, steps=bool(options.steps))}"
                    for path, text in complaints.items()
                )
            )
        ) from None


def prepared(options: ModelOptions, base_dir: Path | None = None) -> ManifestFile:
    """The same, with the digests of its files.

    Args:
        options: with paths that are absolute, or relative to `base_dir`.
        base_dir: the current folder by default.

    Raises:
        InputError: an option, or a file that it names, cannot be used.
    """
    base_dir = base_dir or Path.cwd()
    model = edge_model(options)
    _check_learning(options)
    check_model(base_dir / options.model, options.model, "")
    if options.student is not None:
        check_model(base_dir / options.student, options.student, f"{flag('student')} ")
    for name in DATA:
        path = getattr(options, name)
        if path is not None:
            check_data(base_dir / path, path, flag(name))
    return digested(model, base_dir)


def manifest_text(options: ModelOptions) -> str:
    """The same as YAML, for `edgemodel run -f`, kubectl and GitOps.

    Raises:
        InputError: as `manifest_of`.
    """
    return dump(manifest_of(options))


def name_of(model: Path) -> str:
    """A Kubernetes name out of a file's name.

    >>> name_of(Path("My Model_v2.onnx"))
    'my-model-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", model.stem.lower()).strip("-")[:63].strip("-") or "model"


def in_options(message: str, *, steps: bool = False) -> str:
    """A message of the Job, which names fields of a manifest, in the options that stand for them.

    Args:
        message: to show.
        steps: whether `steps` was given, which has the manifest's own fields, instead of the options for them.

    >>> in_options("data.validation.labels: there is none; compression.steps[1].prune.sparsity 0%")
    '--labels: there is none; --prune 0%'
    >>> in_options("more than maxSize 1Mi: raise it; take TFLite out of spec.formats")
    'more than --max-size 1Mi: raise it; take TFLite out of --format'
    """
    if steps:
        message = re.sub(r"(?<![\w.])(?:spec\.)?compression\.steps\b", "steps", message)
    for pattern, shown in _FIELDS if steps else (*_STEPS, *_FIELDS):
        message = pattern.sub(shown, message)
    return message


def _field_patterns() -> list[tuple[re.Pattern[str], str]]:
    """Fields as messages write them, the longest first, and how the option of each is typed."""
    names = {".".join(path): name for name, path in FIELDS.items() if name != "formats"}
    names |= {".".join(path[:-1]): name for name, path in FIELDS.items() if path[-1] == "uri"}
    # Limits also go by their last word, which nothing else is called.
    names |= {path[-1]: name for name, path in FIELDS.items() if path[-1].startswith("max")}
    found = {rf"(?:spec\.)?{re.escape(field)}{_END}": flag(name) for field, name in names.items()}
    # The word alone means formats in general.
    found |= {rf"spec\.formats{_END}": flag("formats"), r"formats(?=: | names no )": flag("formats")}
    return _compiled(found)


def _step_patterns() -> list[tuple[re.Pattern[str], str]]:
    """The same of steps."""
    step = r"(?:spec\.)?compression\.steps\[\d+\]"
    found = {
        rf"{step}\.{re.escape('.'.join(path))}{_END}": flag(name)
        for name, path in (
            *STEPS.items(),
            ("prune", _PATTERN),
            ("student", STEPS["student"][:-1]),
            ("recover_epochs", STEPS["recover_epochs"][:-1]),
        )
    }
    # A field of a step that has no option: Python takes a step with all its fields.
    found |= {rf"{step}\.(?={name}\b)": "--" for name in ("distill", "prune", "quantize")}
    found |= {rf"the student of {step}{_END}": flag("student")}
    words = {"activations": ("activations", Activations), "precision": ("quantize", Precision)}
    for field, (name, values) in (words | {"structure": ("structure", Structure)}).items():
        found[rf"{field}: (?=(?:{'|'.join(values)})\b)"] = f"{flag(name)} "
    return _compiled(found)


def _compiled(found: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(rf"(?<![\w.-]){field}"), shown)
        for field, shown in sorted(found.items(), key=lambda item: -len(item[0]))
    ]


def _check_together(options: ModelOptions) -> None:
    judged = {name: getattr(options, name) for name in ("labels", "metric", "k", "judged_output")}
    if options.validation is None and (words := given(judged)):
        raise InputError(f"{' and '.join(words)} say how --validation FILE is judged: give that file too")
    if options.training is None and options.training_labels:
        raise InputError("--training-labels names an array of --training FILE: give that file too")
    for step, name in (("prune", "structure"), ("prune", "recover_epochs"), ("quantize", "activations")):
        if getattr(options, step) is None and getattr(options, name) is not None:
            example = {"prune": "60%", "quantize": "Int8"}[step]
            raise InputError(f"{flag(name)} says how to {step}: give --{step} too, such as --{step} {example}")
    made = _steps(options)
    if options.steps and made:
        raise InputError(f"steps are all steps: put {', '.join(next(iter(s)) for s in made)} among them")
    shares = {name: getattr(options, name) for name in ("student_width", "student_depth", "student_rank")}
    if options.student is not None and (words := given(shares)):
        raise InputError(
            f"--student {options.student} is the whole student, and {', '.join(words)} would derive one: give one of them"
        )
    for each in made:
        if "distill" in each and not each["distill"].get("student"):
            raise InputError(
                "--distill trains a smaller student: say which, by --student-width 50%, --student-depth, --student-rank,"
                " or --student FILE"
            )


def _check_learning(options: ModelOptions) -> None:
    """As the Job says it later, in the options' words."""
    if options.training is not None or options.calibration is not None:
        return
    for step in manifest_of(options)["spec"].get("compression", {}).get("steps", ()):
        if "distill" in step or "recover" in step.get("prune", {}):
            what = "--distill" if "distill" in step else "--recover-epochs"
            raise InputError(
                f"{what} has nothing to learn from: give --training FILE, an .npz with the model's inputs (best with labels"
                " too, named by --training-labels), or at least --calibration FILE"
            )


def _steps(options: ModelOptions) -> list[dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for name, path in STEPS.items():
        value = getattr(options, name)
        if value is None:
            continue
        if isinstance(value, Mapping):
            steps.setdefault(path[0], {}).update(value)
            continue
        if name == "prune" and ":" in value:
            path = _PATTERN  # noqa: PLW2901  the same option means another field
        _set(steps, path, _plain(value))
    return [{step: fields} for step, fields in steps.items()]


def _is_text(value: Any) -> bool:
    """Whether a manifest can hold it."""
    try:
        json.dumps(_plain(value))
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return _uri(value)
    return list(value) if isinstance(value, tuple) else value


def _uri(path: Path) -> str:
    return f"file:{str(path).replace('%', '%25')}"


def _set(value: dict[str, Any], path: tuple[str, ...], leaf: Any) -> None:
    for part in path[:-1]:
        value = value.setdefault(part, {})
    value[path[-1]] = leaf


def _option(options: ModelOptions, manifest: dict[str, Any], path: tuple[str | int, ...]) -> str:
    """The option that a field came from; the field itself, if from none."""
    inside = tuple(path[1:]) if path[:1] == ("spec",) else ()
    for name, field in FIELDS.items():
        if inside[: len(field)] == field:
            value, index = getattr(options, name), inside[len(field) :][:1]
            if isinstance(value, tuple):
                value = value[int(index[0])] if index else " ".join(value)
            return f"{flag(name)} {value}"
    if inside[:2] == ("compression", "steps") and not options.steps:
        for name, field in (*STEPS.items(), ("prune", _PATTERN)):
            if inside[3 : 3 + len(field)] == field and not isinstance(getattr(options, name), Mapping):
                return f"{flag(name)} {getattr(options, name)}"
        step = inside[3] if len(inside) > 3 else next(iter(manifest["spec"]["compression"]["steps"][inside[2]]), "")
        return ".".join((f"--{step}", *(str(part) for part in inside[4:])))
    if inside[:2] == ("compression", "steps"):
        inside = inside[1:]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside or path).removeprefix(".")


_FIELDS, _STEPS = _field_patterns(), _step_patterns()
