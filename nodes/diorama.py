"""WM_DioramaScene and WM_DioramaJudge: a scene whose truth is known, and whether pictures followed it."""

from typing import Any

from comfy_api.latest import io

from ._shared.guards import outside_inference_mode
from ._shared.types import CATEGORY, Conditions, SceneGraph, aliases, pictures_of, to_image
from .mojito._sockets import Trajectory

DioramaScene = io.Custom("WM_DIORAMA_SCENE")
"""A `wm_pipelines.diorama.scene.Scene`."""

COMPOSITIONS = ("iid", "held_out", "all")
FLOORS = ("plain", "chequered")
KINDS = ("canny", "lines", "softedge", "sketch", "depth", "seg")
USUAL = 0
SPLIT = "test"  # of the miniature world; no checkpoint was trained on it


class WM_DioramaScene(io.ComfyNode):
    """Draws a scene of the miniature world with everything that is known of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_DioramaScene",
            display_name="WM Diorama Scene",
            category=f"{CATEGORY}/measure",
            **aliases("test picture, synthetic, ground truth, depth, masks, benchmark"),
            description="Draw a scene of a miniature world: picture or clip, caption, depth, masks, graph, path, and "
            "conditions that are bound to the caption.",
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Which scene; the same seed gives the same on every machine.",
                ),
                io.Int.Input(
                    "num_objects",
                    default=USUAL,
                    min=0,
                    max=8,
                    tooltip="Solids in it; 0 draws one or two, and now and then three or four.",
                ),
                io.Combo.Input(
                    "composition",
                    options=list(COMPOSITIONS),
                    default="iid",
                    tooltip="iid: colours and shapes together as in training; held_out: pairs that were never seen.",
                ),
                io.Combo.Input(
                    "condition",
                    options=list(KINDS),
                    default="canny",
                    tooltip="Kind of the conditions, one for each solid, bound to its words in the caption.",
                ),
                io.Int.Input("size", default=64, min=16, max=1024, step=8, tooltip="Side of the picture in pixels."),
                io.Int.Input(
                    "frames", default=1, min=1, max=64, tooltip="1 draws a picture; more draw a clip that moves."
                ),
                io.Combo.Input(
                    "floor",
                    options=list(FLOORS),
                    default="plain",
                    tooltip="Pattern of the floor; training had it plain.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The picture, or the frames of the clip."),
                io.String.Output("caption", tooltip="What is to be seen, in the words that the embedded models know."),
                DioramaScene.Output("scene", tooltip="The scene itself, for WM Diorama Judge."),
                Conditions.Output("conditions", tooltip="Of the first frame, for WM FlexEControl Sample."),
                io.Image.Output("depth", tooltip="Near is white, far is black; a map for each frame."),
                io.Mask.Output("masks", tooltip="One mask for each visible solid of the first frame."),
                io.Mask.Output("ids", tooltip="A map for each frame: 0 the background, whole numbers the solids."),
                SceneGraph.Output("scene_graph", tooltip="Solids, boxes and relations of the first frame."),
                Trajectory.Output("trajectory", tooltip="Where each solid is in every frame, with its words."),
                io.String.Output("boxes", tooltip="Boxes of the first frame as JSON, for WM ComCLIP Match."),
            ],
        )

    @classmethod
    def execute(
        cls, seed: int, num_objects: int, composition: str, condition: str, size: int, frames: int, floor: str
    ) -> io.NodeOutput:
        import json

        import torch

        from wm_pipelines.diorama.boxes import diorama_boxes
        from wm_pipelines.diorama.datasets import DioramaDataset
        from wm_pipelines.diorama.language import caption, scene_graph
        from wm_pipelines.diorama.render import render
        from wm_pipelines.flexecontrol.diorama import scene_conditions
        from wm_pipelines.media.conditions import depth_to_map
        from wm_pipelines.mojito.scene_paths import scene_objects

        with outside_inference_mode():
            scenes = DioramaDataset(
                "image" if frames == 1 else "video",
                split=SPLIT,
                composition=composition,
                length=seed + 1,
                num_objects=num_objects or None,
                frames=frames,
                floor_pattern=floor,
                name="comfyui",
            )
            scene = scenes.scene(seed)
            truth = render(scene, range(frames), size)
            ids = truth.ids[0]
            depth = torch.stack([depth_to_map(metres) for metres in truth.depth[0]])
            masks = [(ids[0] == o.id).float() for o in scene.objects if (ids[0] == o.id).any()]
            outputs = (
                to_image(truth.rgb[0]),
                caption(scene).text,
                scene,
                scene_conditions(scene, condition, size),
                to_image(depth),
                torch.stack(masks) if masks else torch.zeros(1, size, size),
                ids.float(),
                scene_graph(scene, size=size),
                scene_objects(scene, frames, size),
                json.dumps(diorama_boxes(scene, size=size)),
            )
        return io.NodeOutput(*outputs)


class WM_DioramaJudge(io.ComfyNode):
    """Looks at pictures of the miniature world and says how well they followed a scene or a caption."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_DioramaJudge",
            display_name="WM Diorama Judge",
            category=f"{CATEGORY}/measure",
            **aliases("evaluate, obedience, control score, iou, best of n"),
            description="Say how well pictures of the miniature world obeyed a scene or a caption, and put them in "
            "order.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to judge, as a batch; sides a multiple of 4."),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="What they should show, in the miniature world's words. Empty: judged by the scene alone.",
                ),
                DioramaScene.Input(
                    "scene", optional=True, tooltip="The scene they should follow, place by place; its first frame."
                ),
            ],
            outputs=[
                io.Float.Output("score", tooltip="Mean over the pictures, in [0, 1]; 1 is obeyed in full."),
                io.Float.Output("best_score", tooltip="Of the best picture."),
                io.Image.Output("best", tooltip="The picture that obeyed best."),
                io.Image.Output("ranked", tooltip="All pictures, the best first."),
                io.Image.Output(
                    "seen", tooltip="What the judge sees in each of them, in that order: solids by colour."
                ),
                io.String.Output("report", tooltip="A line for each picture, in that order."),
            ],
        )

    @classmethod
    def execute(cls, images: Any, caption: str, scene: Any = None) -> io.NodeOutput:
        import torch

        from wm_pipelines import embedded
        from wm_pipelines.diorama.judge import DioramaJudge
        from wm_pipelines.diorama.metrics import painted
        from wm_pipelines.flexecontrol.diorama import obeyed

        if scene is None and not caption.strip():
            raise ValueError("neither scene nor caption came; one of them says what the pictures should show")
        pictures = torch.stack(pictures_of(images, "images"))
        with outside_inference_mode():
            judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()
            verdicts = obeyed(judge, pictures, scene, caption.strip() or None)
            order = sorted(range(len(verdicts)), key=lambda n: -verdicts[n].score)
            seen = to_image(painted(judge, pictures[order]))
        ranked = to_image(pictures[order])
        scores = [verdict.score for verdict in verdicts]
        lines = [f"{rank}. picture {n + 1}: {verdicts[n].line()}" for rank, n in enumerate(order, 1)]
        mean = sum(scores) / len(scores)
        outputs = (mean, max(scores), ranked[:1], ranked, seen, "\n".join(lines))
        return io.NodeOutput(*outputs)


NODES = (WM_DioramaScene, WM_DioramaJudge)
