"""The public benchmarks by name."""

from unireal.evaluation.benchmarks.base import Benchmark
from unireal.evaluation.benchmarks.depth import DIODE, NYU_DEPTH
from unireal.evaluation.benchmarks.dreambench import DREAMBENCH
from unireal.evaluation.benchmarks.imgedit import IMGEDIT, IMGEDIT_MULTI, IMGEDIT_UGE
from unireal.evaluation.benchmarks.inpainting import BRUSHBENCH
from unireal.evaluation.benchmarks.instructions import EMU_EDIT, MAGICBRUSH, MAGICBRUSH_MULTI
from unireal.evaluation.benchmarks.judged import EDITEVAL, GEDIT
from unireal.evaluation.benchmarks.pie import PIE_BENCH
from unireal.evaluation.benchmarks.segmentation import REASONSEG, REFCOCO, REFCOCO_PLUS, REFCOCOG
from unireal.evaluation.benchmarks.videos import DITTO, TGVE

PUBLIC: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *(EMU_EDIT, MAGICBRUSH, MAGICBRUSH_MULTI, DREAMBENCH, PIE_BENCH),
        *(IMGEDIT, IMGEDIT_UGE, IMGEDIT_MULTI, GEDIT, EDITEVAL),
        *(TGVE, DITTO, NYU_DEPTH, DIODE, REFCOCO, REFCOCO_PLUS, REFCOCOG, REASONSEG, BRUSHBENCH),
    )
}
