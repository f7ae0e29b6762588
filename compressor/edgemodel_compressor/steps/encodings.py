"""Encodings: in which number types a quantize step stores and computes, and the CPUs each is right and fast on. Pure.

One INT8 file is not right on every CPU. x86 without VNNI multiplies u8 × s8 by `vpmaddubsw`, which adds two products
in a saturating int16: 2·255·127 = 64770 > 32767 (33.7 % error on a worst-case MatMul). Two ways out: weights of 7
bits (`reduce_range`: 2·255·64 = 32640), or u8 × u8, for which the kernels widen first. VNNI and arm64's dot products
add in int32. A64 without dot products adds two s8 × s8 products in int16: 2·128·127 = 32512 is within it, as weights
stop at ±127. So:

========================  =========================================================================================
amd64-vnni                u8s8 and s8s8, one scale per output channel
amd64-avx2                u8u8, and u8s8 with 7-bit weights; s8s8 where no sum saturates, which `verify` finds out
amd64-base                the same; kernels without AVX2 widen first, so nothing saturates there
arm64-dotprod             s8s8, one scale per output channel
arm64-base (A53, A72)     s8s8 is right there but seldom faster than float: the trial on the node decides
unknown                   u8u8, and u8s8 with 7-bit weights
all                       weights only, Float16: computed in float, the same everywhere
========================  =========================================================================================

s8s8 is the one encoding that every known CPU takes, so it can be one file for all of them. Few real layers have
neighbouring weights and activations that are all large: those that saturate are repaired (`verify.repair`), layer by
layer, instead of a bit less for all. Seen under emulation of Haswell, Nehalem, Cortex-A72 and Neoverse-N1.

Source: onnxruntime.ai/docs/performance/model-optimizations/quantization.html ("When to use reduce-range and per-channel
quantization", "Data type selection"); measurements in the project's notes on hardware classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from edgemodel_api.edgemodel import Activations, Precision, QuantizeStep
from edgemodel_api.hardware import PLATFORM_OF, HardwareClass


class Number(StrEnum):
    """Types of stored numbers."""

    INT8 = "int8"
    UINT8 = "uint8"
    INT4 = "int4"
    INT12 = "int12"
    FLOAT16 = "float16"


class Repair(StrEnum):
    """What is done to a layer whose integers saturate on a CPU."""

    REDUCE_RANGE = "7-bit weights"
    UINT8 = "U8 weights"
    FLOAT = "float"


ALL = tuple(HardwareClass)
_NO_VNNI = (HardwareClass.AMD64_AVX2, HardwareClass.AMD64_BASE, HardwareClass.UNKNOWN)
_VNNI = (HardwareClass.AMD64_VNNI,)
_ARM = (HardwareClass.ARM64_DOTPROD, HardwareClass.ARM64_BASE)
#: Right there unless sums saturate: see `edgemodel_compressor.verify`.
_UNLESS_SATURATED = (HardwareClass.AMD64_AVX2, HardwareClass.AMD64_BASE)


@dataclass(frozen=True)
class Encoding:
    """How numbers are stored and computed.

    Attributes:
        name: DNS-like, in variants' names and the report.
        weight: type of stored weights.
        activation: type of activations at run time; None: they stay float.
        dynamic: whether activation ranges are found at run time.
        per_channel: one scale per output channel; False: one per tensor.
        reduce_range: 7-bit weights.
        block: elements per scale along the input channels; 0: no blocks.
        limit: the largest number, where that is less than what the type holds: the channel's largest element becomes it;
            0: what the type holds.
        dead: elements of less than so many steps become zero; 0.5: plain rounding.
        hardware_classes: the CPUs it is meant for.
        repairs: (node, what is done there instead), sorted: see `edgemodel_compressor.verify.repair`.
        of: name of the encoding that it repairs.
    """

    name: str
    weight: Number
    activation: Number | None = None
    dynamic: bool = False
    per_channel: bool = True
    reduce_range: bool = False
    block: int = 0
    limit: int = 0
    dead: float = 0.5
    hardware_classes: tuple[HardwareClass, ...] = ALL
    repairs: tuple[tuple[str, Repair], ...] = ()
    of: str = ""

    @property
    def family(self) -> str:
        """Its name without repairs: the same layers are sensitive, the same ranges hold."""
        return self.of or self.name

    @property
    def weights_only(self) -> bool:
        """Whether the model computes in float."""
        return self.activation is None


STATIC = (
    Encoding("int8-static-u8s8", Number.INT8, Number.UINT8, hardware_classes=_VNNI),
    Encoding("int8-static-u8u8", Number.UINT8, Number.UINT8, per_channel=False, hardware_classes=(*_NO_VNNI, *_VNNI)),
    Encoding("int8-static-s8s8", Number.INT8, Number.INT8, hardware_classes=(*_VNNI, *_ARM, *_UNLESS_SATURATED)),
    Encoding("int8-static-u8s7", Number.INT8, Number.UINT8, reduce_range=True, hardware_classes=_NO_VNNI),
)
DYNAMIC = (
    Encoding("int8-dynamic-u8", Number.UINT8, Number.UINT8, dynamic=True, per_channel=False,
             hardware_classes=(*_NO_VNNI, *_VNNI)),
    Encoding("int8-dynamic-s8", Number.INT8, Number.UINT8, dynamic=True,
             hardware_classes=(*_VNNI, *_ARM, *_UNLESS_SATURATED)),
)  # fmt: skip
INT8_WEIGHTS = Encoding("int8-weights", Number.INT8)
INT4_WEIGHTS = Encoding("int4-weights", Number.INT4, block=32)
#: A quarter of the scales: smaller, and a little rougher.
INT4_COARSE = Encoding("int4-weights-b128", Number.INT4, block=128)
FLOAT16_WEIGHTS = Encoding("float16-weights", Number.FLOAT16, per_channel=False)
#: The largest numbers of `STEPPED`: about a third of a bit apart.
LIMITS = (127, 101, 81, 64, 51, 40, 32, 26, 20, 16, 13, 10, 8, 7, 6, 5, 4, 3, 2, 1)
#: Beyond eight bits, half a bit apart: for what cannot bear them, in much less room than halves. The largest that two
#: numbers of eight and four bits hold (`weight_only.planes`).
WIDE = (2032, 1437, 1016, 718, 508, 359, 254, 180)
#: Wider than plain rounding: fewer bits for the rounding error, where a number has few. Finer steps gain nothing by it.
DEAD, DEAD_UP_TO = 0.6, 32


def stepped(limit: int, *, per_channel: bool, dead: float = 0.5) -> Encoding:
    """Whole numbers up to `limit` in storage of bytes, one step for each output channel or for the whole weight.

    At a given rate the least squared error comes from equal steps and an entropy coder behind them (Gish and Pierce
    1968, doi:10.1109/TIT.1968.1054193; for weights Wiedemann et al. 2019, arXiv:1905.08318): larger steps then save
    bytes as fewer bits would, but in finer grades, and no element is clipped.
    """
    name = f"steps{limit}{'' if per_channel else '-tensor'}{'-dead' if dead > 0.5 else ''}"
    number = Number.INT8 if limit <= max(LIMITS) else Number.INT12
    return Encoding(name, number, per_channel=per_channel, limit=limit, dead=dead)


#: What only a search uses: its mixtures.
STEPPED = tuple(
    stepped(limit, per_channel=per_channel, dead=dead)
    for limit in (*WIDE, *LIMITS)
    for per_channel in (True, False)
    for dead in ((0.5, DEAD) if limit <= DEAD_UP_TO else (0.5,))
)
BY_NAME = {e.name: e for e in (*STATIC, *DYNAMIC, INT8_WEIGHTS, INT4_WEIGHTS, INT4_COARSE, FLOAT16_WEIGHTS, *STEPPED)}


def encodings_for(step: QuantizeStep, platforms: Iterable[str]) -> tuple[Encoding, ...]:
    """Those that do what the step says and suit a CPU of one of the platforms; the likely best first.

    Int4 and Float16 have no integer kernels that CPUs share: whatever `activations` says, they are weights only. A
    platform that is none of the known ones counts as `unknown`.
    """
    if step.precision is Precision.INT4:
        return (INT4_WEIGHTS,)
    if step.precision is Precision.FLOAT16:
        return (FLOAT16_WEIGHTS,)
    if step.activations is Activations.NONE:
        return (INT8_WEIGHTS,)
    table = STATIC if step.activations is Activations.STATIC else DYNAMIC
    there = classes_of(platforms)
    return tuple(e for e in table if there.intersection(e.hardware_classes))


def computes_integers(step: QuantizeStep) -> bool:
    """Whether its encodings compute with whole numbers."""
    return step.precision is Precision.INT8 and step.activations is not Activations.NONE


def stores_integers(step: QuantizeStep) -> bool:
    """Whether its encoding stores weights as whole numbers and computes in float."""
    return step.precision is not Precision.FLOAT16 and not computes_integers(step)


def classes_of(platforms: Iterable[str]) -> frozenset[HardwareClass]:
    """Hardware classes that machines of these platforms may be of."""
    found: set[HardwareClass] = set()
    for platform in platforms:
        known = {c for c, p in PLATFORM_OF.items() if p == platform}
        found |= known or {HardwareClass.UNKNOWN}
    return frozenset(found)
