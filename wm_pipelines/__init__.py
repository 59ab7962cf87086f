"""Control, adapt and measure generative models, as diffusers pipelines, ComfyUI nodes and checkpoints.

Public names load on first use, so that importing the package costs neither torch nor diffusers.
"""

from importlib import import_module

from wm_pipelines.runtime.version import __version__ as __version__

_PUBLIC = {
    "AutoWMPipeline": "wm_pipelines.pipeline",
    "CPLPipeline": "wm_pipelines.cpl.pipeline",
    "CPLPromptLearner": "wm_pipelines.cpl.modeling",
    "ComCLIPPipeline": "wm_pipelines.comclip.pipeline",
    "Condition": "wm_pipelines.flexecontrol.condition",
    "DioramaDataset": "wm_pipelines.diorama.datasets",
    "FlexEControlModel": "wm_pipelines.flexecontrol.modeling",
    "FlexEControlPipeline": "wm_pipelines.flexecontrol.pipeline",
    "KAdaptationPipeline": "wm_pipelines.kadaptation.pipeline",
    "KroneckerConfig": "wm_pipelines.adapters.kronecker",
    "LocalIntrinsicDimension": "wm_pipelines.kadaptation.subspace.dimension",
    "MojitoPipeline": "wm_pipelines.mojito.pipeline",
    "MotionIntensityModel": "wm_pipelines.mojito.modeling",
    "MotionObject": "wm_pipelines.mojito.objects",
    "SceneGraph": "wm_pipelines.text.scene_graph",
    "WMConfig": "wm_pipelines.config",
    "WMPipeline": "wm_pipelines.pipeline",
    "embedded": "wm_pipelines.hub",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
