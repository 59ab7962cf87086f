"""Control, adapt and measure generative models, as diffusers pipelines, ComfyUI nodes and checkpoints.

Public names load on first use, so that importing the package costs neither torch nor diffusers.
"""

from importlib import import_module

from wm_pipelines.runtime.version import __version__ as __version__

TYPE_CHECKING = False  # what type checkers take for typing's, whose import would cost as much as all the rest here
if TYPE_CHECKING:  # for editors; `_PUBLIC` says the same, and a test holds the two together
    from wm_pipelines.adapters.kronecker import KroneckerConfig as KroneckerConfig
    from wm_pipelines.aurora_bench.pipeline import AuroraBenchPipeline as AuroraBenchPipeline
    from wm_pipelines.comclip.pipeline import ComCLIPPipeline as ComCLIPPipeline
    from wm_pipelines.config import WMConfig as WMConfig
    from wm_pipelines.cpl.modeling import CPLPromptLearner as CPLPromptLearner
    from wm_pipelines.cpl.pipeline import CPLPipeline as CPLPipeline
    from wm_pipelines.diorama.datasets import DioramaDataset as DioramaDataset
    from wm_pipelines.discffusion.pipeline import DiscffusionPipeline as DiscffusionPipeline
    from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline as DynamicsModelPipeline
    from wm_pipelines.flexecontrol.conditions.condition import Condition as Condition
    from wm_pipelines.flexecontrol.modeling import FlexEControlModel as FlexEControlModel
    from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline as FlexEControlPipeline
    from wm_pipelines.graph_transformer.graph import AttentionGraph as AttentionGraph
    from wm_pipelines.graph_transformer.graph import GraphNode as GraphNode
    from wm_pipelines.graph_transformer.modeling import QuasiAttentionModel as QuasiAttentionModel
    from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline as GraphTransformerPipeline
    from wm_pipelines.hub.store import embedded as embedded
    from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline as KAdaptationPipeline
    from wm_pipelines.kadaptation.subspace.dimension import LocalIntrinsicDimension as LocalIntrinsicDimension
    from wm_pipelines.mmworld.pipeline import MMWorldPipeline as MMWorldPipeline
    from wm_pipelines.mojito.modeling import MotionIntensityModel as MotionIntensityModel
    from wm_pipelines.mojito.pipeline import MojitoPipeline as MojitoPipeline
    from wm_pipelines.mojito.trajectories.objects import MotionObject as MotionObject
    from wm_pipelines.morpho4d.pipeline import Morpho4DPipeline as Morpho4DPipeline
    from wm_pipelines.morpho4d.scene import Scene4D as Scene4D
    from wm_pipelines.pipeline import AutoWMPipeline as AutoWMPipeline
    from wm_pipelines.pipeline import WMPipeline as WMPipeline
    from wm_pipelines.text.scene_graph import Edge as Edge
    from wm_pipelines.text.scene_graph import Node as Node
    from wm_pipelines.text.scene_graph import SceneGraph as SceneGraph
    from wm_pipelines.vlm4d.pipeline import VLM4DPipeline as VLM4DPipeline
    from wm_pipelines.world_model.pipeline import WorldModelPipeline as WorldModelPipeline

_PUBLIC = {
    "AttentionGraph": "wm_pipelines.graph_transformer.graph",
    "AuroraBenchPipeline": "wm_pipelines.aurora_bench.pipeline",
    "AutoWMPipeline": "wm_pipelines.pipeline",
    "CPLPipeline": "wm_pipelines.cpl.pipeline",
    "CPLPromptLearner": "wm_pipelines.cpl.modeling",
    "ComCLIPPipeline": "wm_pipelines.comclip.pipeline",
    "Condition": "wm_pipelines.flexecontrol.conditions.condition",
    "DioramaDataset": "wm_pipelines.diorama.datasets",
    "DiscffusionPipeline": "wm_pipelines.discffusion.pipeline",
    "DynamicsModelPipeline": "wm_pipelines.dynamics.pipeline",
    "Edge": "wm_pipelines.text.scene_graph",
    "FlexEControlModel": "wm_pipelines.flexecontrol.modeling",
    "FlexEControlPipeline": "wm_pipelines.flexecontrol.pipeline",
    "GraphNode": "wm_pipelines.graph_transformer.graph",
    "GraphTransformerPipeline": "wm_pipelines.graph_transformer.pipeline",
    "KAdaptationPipeline": "wm_pipelines.kadaptation.pipeline",
    "KroneckerConfig": "wm_pipelines.adapters.kronecker",
    "LocalIntrinsicDimension": "wm_pipelines.kadaptation.subspace.dimension",
    "MMWorldPipeline": "wm_pipelines.mmworld.pipeline",
    "MojitoPipeline": "wm_pipelines.mojito.pipeline",
    "Morpho4DPipeline": "wm_pipelines.morpho4d.pipeline",
    "MotionIntensityModel": "wm_pipelines.mojito.modeling",
    "MotionObject": "wm_pipelines.mojito.trajectories.objects",
    "Node": "wm_pipelines.text.scene_graph",
    "QuasiAttentionModel": "wm_pipelines.graph_transformer.modeling",
    "Scene4D": "wm_pipelines.morpho4d.scene",
    "SceneGraph": "wm_pipelines.text.scene_graph",
    "VLM4DPipeline": "wm_pipelines.vlm4d.pipeline",
    "WMConfig": "wm_pipelines.config",
    "WMPipeline": "wm_pipelines.pipeline",
    "WorldModelPipeline": "wm_pipelines.world_model.pipeline",
    "embedded": "wm_pipelines.hub.store",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # before the libraries that print these lines are imported
    import_module("wm_pipelines.runtime.quiet").leave_out_superfluous_lines()
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
