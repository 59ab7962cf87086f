"""The README's first command on drawings as people bring them: is every named object where it was drawn?

    python benchmarks/flexecontrol_drawings.py --out benchmarks/results/flexecontrol_drawings.jsonl --sheet sheet.png
    python benchmarks/flexecontrol_drawings.py --base FOLDER --control FOLDER        # a candidate

The twelve pictures of `drawings.py`, three seeds each, as the README does it: `Condition.from_photo("canny", ...,
fit="crop", phrase=<the first object>)`, everything else at its default. diorama-judge reads the pictures. An object is
in its place if the largest region of its colour that fits has its centre inside the drawn figure's box and its own box
overlaps that box by an IoU of at least 0.4; shaped, if that region also has the named shape. "placed": every named
object of the picture is in its place, with its colour; "shaped": and has its shape; "alone": and nothing else is
there. Shares of pictures with Wilson intervals; pictures of one drawing are alike, so the truth is a little wider.
"""

import argparse
import json
import textwrap
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from drawings import Drawing, twelve
from PIL import Image, ImageDraw
from records import append, environment

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.metrics import Found, look
from wm_pipelines.evaluation.statistics import wilson
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.preparing import prepare
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.hub import embedded, resolve
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.boxes import box_iou
from wm_pipelines.media.pictures import save_image, to_pil

BARS = {"floor": 0.80, "aim": 0.95}  # of "placed"
LEAST_IOU = 0.4
FIGURES = ("placed", "shaped", "alone")
TILE = 160


def in_place(found: Found, box: Sequence[float]) -> bool:
    x, y = found.centre
    overlap = float(box_iou(*(torch.tensor(b, dtype=torch.float64) for b in (found.box, box))))
    return box[0] <= x <= box[2] and box[1] <= y <= box[3] and overlap >= LEAST_IOU


def faults_of(drawing: Drawing, found: Sequence[Found]) -> tuple[dict[str, bool], list[str]]:
    """The three figures of one picture, and what is wrong with it in words."""
    wrong, shaped, taken = [], True, []
    for thing, box in zip(drawing.things, drawing.boxes(), strict=True):
        own = [f for f in found if f.colour == thing.colour]
        here = [f for f in own if in_place(f, box)]
        if not here:
            wrong.append(f"{thing.colour} {thing.shape}: {'elsewhere' if own else 'missing'}")
            continue
        taken.append(here[0])
        if here[0].shape != thing.shape:
            shaped = False
            wrong.append(f"{thing.colour} {thing.shape}: a {here[0].shape}")
    placed = len(taken) == len(drawing.things)
    others = [f for f in found if f not in taken]
    wrong += [f"also a {f.colour} {f.shape}" for f in others if placed]
    return {"placed": placed, "shaped": placed and shaped, "alone": placed and shaped and not others}, wrong


def sheet(drawings: Sequence[Drawing], maps: Sequence, pictures: Sequence, results: Sequence) -> Image.Image:
    """A row for each drawing: as it came, with its prompt; the edges that were read; the pictures and their faults."""
    columns, line = 2 + len(pictures[0]), 13
    wide, high = TILE + 12, TILE + 4 * line + 8
    page = Image.new("RGB", (columns * wide + 12, len(drawings) * high + 24), "white")
    write = ImageDraw.Draw(page)
    for column, head in enumerate(["drawing, prompt", "edges read"] + [f"seed {s}" for s in range(columns - 2)]):
        write.text((12 + column * wide, 6), head, fill="black")
    for row, (drawing, map, made, judged) in enumerate(zip(drawings, maps, pictures, results, strict=True)):
        top = 24 + row * high
        brought = Image.fromarray(drawing.picture)
        brought.thumbnail((TILE, TILE))
        tiles = [brought, *(to_pil(p).resize((TILE, TILE), Image.Resampling.NEAREST) for p in (map, *made))]
        told = [drawing.name, *textwrap.wrap(drawing.prompt, 28)]
        words = [told, [], *(wrong or ["as drawn"] for _, wrong in judged)]
        for column, (tile, text) in enumerate(zip(tiles, words, strict=True)):
            left, colour = 12 + column * wide, "black"
            page.paste(tile, (left, top))
            if column >= 2:
                figures = judged[column - 2][0]
                colour = "darkgreen" if figures["alone"] else "darkorange" if figures["placed"] else "crimson"
                for box in drawing.boxes():
                    x0, y0, x1, y1 = (TILE * v for v in box)
                    write.rectangle([left + x0, top + y0, left + x1, top + y1], outline="white")
                write.rectangle([left - 2, top - 2, left + TILE + 1, top + TILE + 1], outline=colour, width=2)
            for n, said in enumerate(text[:4]):
                write.text((left, top + TILE + 3 + n * line), said, fill=colour)
    return page


def load(base: str, control: str) -> FlexEControlPipeline:
    """As the README loads it."""
    adapter = load_model(FlexEControlModel, resolve(control))
    pipeline = FlexEControlPipeline.from_pretrained(str(resolve(base)), control=adapter)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def digest(folder: Path) -> str:
    """Which weights these are, whatever they are called."""
    return sha256((folder / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()[:12]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="diorama-sd", help="embedded name or folder")
    parser.add_argument("--control", default="flexecontrol", help="embedded name or folder")
    parser.add_argument("--type", default="canny", help="extractor of the condition")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's own")
    parser.add_argument("--steps", type=int, help="default: the checkpoint's own")
    parser.add_argument("--out", type=Path, help="results, JSON Lines")
    parser.add_argument("--sheet", type=Path, help="PNG for a person to look at")
    parser.add_argument("--smoke", action="store_true", help="one drawing, one seed, two steps")
    args = parser.parse_args(argv)
    if args.smoke:
        args.seeds, args.steps = 1, 2
    pipeline = load(args.base, args.control)
    judge = load_model(DioramaJudge, embedded("diorama-judge"))
    drawings = twelve()[: 1 if args.smoke else None]
    maps, pictures, results = [], [], []
    for drawing in drawings:
        edges = Condition.from_photo(args.type, Image.fromarray(drawing.picture), fit="crop", phrase=drawing.phrase)
        made = pipeline(
            drawing.prompt,
            conditions=edges,
            num_images_per_prompt=args.seeds,
            generator=[torch.Generator().manual_seed(seed) for seed in range(args.seeds)],
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            output_type="pt",
        ).images
        maps.append(prepare([edges], *made.shape[-2:], pipeline.control.multiple)[0].image)
        pictures.append(made)
        results.append([faults_of(drawing, found) for found in look(judge, made)])
        print(f"{drawing.name}: " + " | ".join(", ".join(wrong) or "as drawn" for _, wrong in results[-1]), flush=True)
    row = {
        "benchmark": "flexecontrol_drawings", "base": args.base, "control": args.control, "type": args.type,
        "sha256": {"base": digest(resolve(args.base) / "unet"), "control": digest(resolve(args.control))},
        "guidance": args.guidance, "n": len(drawings) * args.seeds, "drawings": len(drawings), "seeds": args.seeds,
        "least_iou": LEAST_IOU, "bars": BARS,
    }  # fmt: skip
    for figure in FIGURES:
        hits = sum(figures[figure] for judged in results for figures, _ in judged)
        row |= {figure: round(hits / row["n"], 4), f"{figure}_ci95": [round(end, 4) for end in wilson(hits, row["n"])]}
    row["of_each"] = {
        drawing.name: [[*(k for k in FIGURES if figures[k])][-1:] + wrong for figures, wrong in judged]
        for drawing, judged in zip(drawings, results, strict=True)
    }
    row["evaluation"] = [
        {
            "task": "the README's first command",
            "dataset": f"twelve drawings, {args.type} of a photo",
            "metric": figure,
            "value": row[figure],
            "ci95": row[f"{figure}_ci95"],
            "n": row["n"],
            "seeds": list(range(args.seeds)),
            "command": "python benchmarks/flexecontrol_drawings.py",
        }
        for figure in FIGURES
    ]
    print(json.dumps({k: v for k, v in row.items() if k not in ("evaluation", "of_each")}))
    if args.sheet:
        save_image(sheet(drawings, maps, pictures, results), args.sheet)
    if args.out:
        append(args.out, row | environment())


if __name__ == "__main__":
    main()
