"""Five GPUs by their makers' data sheets, and the shares of their peak that trainings reach."""

from dataclasses import dataclass

#: Pictures a second on one GPU, MLPerf Training's RetinaNet (ResNeXt50, OpenImages).
PUBLISHED_RATES = {"a100": 121, "h100": 291, "h200": 301}
PUBLISHED_CLASSES, PUBLISHED_SIDE = 264, 800


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    memory   GiB that a program can have
    tflops   {"fp32", "fp16", "bf16"}: dense peak, 10^12 floating-point operations a second. Where
             the GPU has TF32, "fp32" is TF32's, in which PyTorch's convolutions run unless told
             otherwise. A type that is missing is not calculated by the GPU itself.
    shares   {"fp32", "half"}: (low, high) shares of that peak
    sources  {"fp32", "half"}: where the high share comes from, or that it is assumed
    """

    name: str
    memory: float
    tflops: dict[str, float]
    shares: dict[str, tuple[float, float]]
    sources: dict[str, str]

    def share(self, precision: str) -> tuple[float, float]:
        """(low, high) share of the peak in "fp32", "fp16" or "bf16"."""
        return self.shares[kind_of(precision)]

    def reason(self, precision: str) -> str:
        """Both shares in words, the high one with its source."""
        low, high = self.share(precision)
        why = self.sources[kind_of(precision)]
        return f"at {high:.0%} of peak, {why}, and at {low:.0%}, assumed of ordinary code"

    def faster(self, precision: str) -> str | None:
        """The half precision that a training in "fp32" had better take; None of one in half."""
        if kind_of(precision) == "half":
            return None
        return "bf16" if "bf16" in self.tflops else "fp16"


def kind_of(precision: str) -> str:
    """The key of `Gpu.shares` for a precision."""
    return "fp32" if precision == "fp32" else "half"


def _published(rate: int, version: str) -> str:
    return f"as MLPerf {version}'s RetinaNet, {rate} pictures/s at 800 px"


#: High, in half precision: MLPerf Training's RetinaNet-RNeXt50 at 800 px with the 264 classes of
#: its OpenImages, 121 pictures/s on an A100 (v2.0), 291 on an H100 and 301 on an H200 (v4.0), times
#: the 1,155 GFLOP of RetinaNet-R50's step with as many classes, over the peak. For TF32, and for
#: half precision on a T4 or V100, no such run is known here: the same share is an assumption.
#: Without tensor cores in fp32: detectron2's RetinaNet-R50, 9.8 pictures/s of 1,451 GFLOP on a V100
#: (cuDNN's Winograd convolutions need fewer operations than are counted); of a T4 the same is
#: assumed. Low: of what ordinary code reaches that waits for its loader and for itself no run is
#: cited: an assumption throughout.
_CORES = {"fp32": (0.10, 0.45), "half": (0.10, 0.45)}
_HOPPER = {"fp32": (0.10, 0.34), "half": (0.10, 0.34)}
_OLD = {"fp32": (0.40, 0.90), "half": (0.10, 0.45)}
_TF32 = "assumed as in half precision"
_AS_A100 = "assumed as of an A100"
_V100 = "detectron2's 9.8 pictures/s on a V100"
_A100 = _published(PUBLISHED_RATES["a100"], "2.0")
_H100 = _published(PUBLISHED_RATES["h100"], "4.0")
_H200 = _published(PUBLISHED_RATES["h200"], "4.0")
GPUS = {
    "t4": Gpu(
        "T4",
        14.6,
        {"fp32": 8.1, "fp16": 65},
        _OLD,
        {"fp32": "assumed as of a V100", "half": _AS_A100},
    ),
    "v100": Gpu(
        "V100 (16 GB)", 15.8, {"fp32": 15.7, "fp16": 125}, _OLD, {"fp32": _V100, "half": _AS_A100}
    ),
    "a100": Gpu(
        "A100 (80 GB)",
        79.1,
        {"fp32": 156, "fp16": 312, "bf16": 312},
        _CORES,
        {"fp32": _TF32, "half": _A100},
    ),
    "h100": Gpu(
        "H100 (80 GB)",
        79.1,
        {"fp32": 494, "fp16": 989, "bf16": 989},
        _HOPPER,
        {"fp32": _TF32, "half": _H100},
    ),
    "h200": Gpu(
        "H200 (141 GB)",
        139.8,
        {"fp32": 494, "fp16": 989, "bf16": 989},
        _HOPPER,
        {"fp32": _TF32, "half": _H200},
    ),
}
