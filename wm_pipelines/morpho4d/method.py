"""The door of Morpho4D (arXiv 2510.04390)."""

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class Morpho4DConfig(Record):
    """Nothing beside the scene itself, which `config.json` and `scene4d.safetensors` hold."""


METHODS = (
    Method(
        name="morpho4d",
        title="Morpho4D",
        hub_task="image-to-3d",
        about=(
            "A scene in time, made of moving Gaussians: played from any camera, edited object by object without "
            "generating again, and written to files that other viewers open."
        ),
        settings=Morpho4DConfig,
        usage=(
            "from wm_pipelines import Scene4D\n\n"
            'scene = Scene4D.from_pretrained("<this repository or its folder>")\n'
            "frames = scene.render(0).frames"
        ),
        paper="arXiv:2510.04390",
    ),
)
