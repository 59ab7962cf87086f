"""WM_LabelledFolder and WM_Confusion: labelled pictures from a folder, and which class is taken for which."""

from typing import Any

from comfy_api.latest import io

from ._shared import folders
from ._shared.input_folders import input_root, list_class_folders, resolve_class_folder
from ._shared.types import CATEGORY, aliases, lines_of, pil_image, to_image

FITS = ("crop", "pad", "stretch")
WORLDS = ("miniature world: colours", "miniature world: shapes")
WORDS = {WORLDS[0]: "colour", WORLDS[1]: "shape"}


class WM_LabelledFolder(io.ComfyNode):
    """Reads pictures with their classes from a folder, some of each class held out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_LabelledFolder",
            display_name="WM Labelled Folder",
            category=f"{CATEGORY}/adapt",
            **aliases("dataset, load images, few-shot, class folders, labels"),
            description="Load labelled pictures: a folder in ComfyUI's input folder with a folder for each class, or "
            "pictures of the miniature world.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[*WORLDS, *list_class_folders(input_root())],
                    default=WORLDS[0],
                    tooltip="A folder under input with a sub-folder of pictures for each class, which names it; or "
                    "one solid a picture, drawn here.",
                ),
                io.Int.Input("size", default=64, min=16, max=1024, tooltip="Side of all pictures, in pixels."),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip="How pictures get square: the middle, all of it on black, or distorted.",
                ),
                io.Int.Input(
                    "shots", default=5, min=0, max=1000, tooltip="Pictures of each class to fit to; 0 takes all."
                ),
                io.Int.Input(
                    "held_out",
                    default=3,
                    min=0,
                    max=1000,
                    tooltip="Of each class to test on, never fitted to.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Which pictures are chosen; the same seed chooses the same.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="Pictures to fit to."),
                io.String.Output("labels", tooltip="Their classes, one a line."),
                io.Image.Output("test_images", tooltip="Pictures held out; with held_out at 0 those to fit to."),
                io.String.Output("test_labels", tooltip="Their classes, one a line."),
                io.String.Output("class_names", tooltip="The classes, one a line."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return "" if folder in WORLDS else repr(folders.fingerprint(resolve_class_folder(folder, input_root())))

    @classmethod
    def execute(cls, folder: str, size: int, fit: str, shots: int, held_out: int, seed: int) -> io.NodeOutput:
        from wm_pipelines.data.class_folders import class_folders
        from wm_pipelines.data.labelled import few_of_each, read_square
        from wm_pipelines.diorama.labelled import labelled_solids

        if folder in WORLDS:
            pictures, names = labelled_solids(WORDS[folder], (shots or 5) + held_out, size, seed)
            fitted, held = few_of_each(names, shots, held_out, seed)
            chosen = [pictures[rows] for rows in (fitted, held or fitted)]
        else:
            paths, names = class_folders(resolve_class_folder(folder, input_root()))
            fitted, held = few_of_each(names, shots, held_out, seed)
            chosen = [read_square([paths[n] for n in rows], size, fit) for rows in (fitted, held or fitted)]
        labels = ["\n".join(names[n] for n in rows) for rows in (fitted, held or fitted)]
        outputs = (to_image(chosen[0]), labels[0], to_image(chosen[1]), labels[1], "\n".join(sorted(set(names))))
        return io.NodeOutput(*outputs)


class WM_Confusion(io.ComfyNode):
    """Counts which class is taken for which."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Confusion",
            display_name="WM Confusion",
            category=f"{CATEGORY}/measure",
            **aliases("confusion matrix, accuracy, evaluate, classifier"),
            description="Compare the labels that a classifier gave with the right ones: accuracy, and which class is "
            "taken for which.",
            inputs=[
                io.String.Input(
                    "predicted", default="", multiline=True, tooltip="What the classifier said, one picture a line."
                ),
                io.String.Input("truth", default="", multiline=True, tooltip="The right classes, one picture a line."),
                io.String.Input(
                    "class_names",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The classes in order, one a line; empty takes the sorted ones in truth.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The table: rows the truth, columns the answers."),
                io.Float.Output("accuracy", tooltip="Share of the pictures that are named right."),
                io.String.Output("report", tooltip="Accuracy with its interval, each class, and each confusion."),
            ],
        )

    @classmethod
    def execute(cls, predicted: str, truth: str, class_names: str = "") -> io.NodeOutput:
        from wm_pipelines.evaluation.confusion import confusion

        said, right = lines_of(predicted, "predicted"), lines_of(truth, "truth")
        found = confusion(said, right, lines_of(class_names, "class_names") or None)
        return io.NodeOutput(pil_image(found.picture()), found.accuracy, "\n".join(found.lines()))


NODES = (WM_LabelledFolder, WM_Confusion)
