"""Gallery pages of embedded checkpoints: what each makes of test cases, none of them chosen.

    python benchmarks/gallery.py                    # all of them
    python benchmarks/gallery.py diorama-sd cpl     # these

Writes gallery.md and its pictures into the checkpoint's folder and its page under model_cards/, and the card anew. A
base is shown by the sheets below, what stands on one by its method's demo.
"""

import argparse
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, VQModel
from PIL import Image

from wm_pipelines import hub
from wm_pipelines.adapters.kronecker import load_adapter
from wm_pipelines.clip.parts import load_clip, preprocess
from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.metrics import look, matched, obedience, painted
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.render import render
from wm_pipelines.discffusion.scenes import foils_of
from wm_pipelines.hub.cards import GALLERY_NAME, write_card
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import Tile, judged, sheet
from wm_pipelines.methods import methods
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.world_model.sampling import Sampling, draw_codes

PAGES = Path(__file__).parents[1] / "model_cards"
ACROSS, DOWN = 6, 2
Files = list[tuple[str, str]]
"""Names of pictures in a folder, and what each shows."""


def grid(tiles: list[Tile]) -> Image.Image:
    return sheet([""], [("", [tiles[n : n + ACROSS]]) for n in range(0, len(tiles), ACROSS)])


def judge() -> DioramaJudge:
    return load_model(DioramaJudge, hub.embedded("diorama-judge")).eval()


def scenes_of(count: int, composition: str, number: int = ACROSS * DOWN) -> list:
    data = DioramaDataset(split="test", composition=composition, length=number, num_objects=count, name="gallery")
    return [data.scene(n) for n in range(number)]


def pictures_of(scenes: list) -> torch.Tensor:
    return render(scenes, maps=("rgb",)).rgb[:, 0]


def told(found: list) -> str:
    return ", ".join(f"{f.colour} {f.shape}" for f in found) or "nothing"


def base_pictures(folder: Path) -> Files:
    """Pictures of diorama-sd; green where diorama-judge finds all that the prompt names."""
    pipe = StableDiffusionPipeline.from_pretrained(hub.embedded("diorama-sd"))
    pipe.set_progress_bar_config(disable=True)
    reader, files = judge(), []
    for count, composition, about in (
        (1, "iid", "one thing"),
        (2, "iid", "two things and a relation"),
        (2, "held_out", "two things, of colours and shapes that were never shown together"),
    ):
        prompts = [
            caption(scene, "objects", seed=n, relations=True).text
            for n, scene in enumerate(scenes_of(count, composition))
        ]
        made = pipe(
            prompts, num_inference_steps=25, guidance_scale=4.0, output_type="pt",
            generator=[torch.Generator().manual_seed(n) for n in range(len(prompts))],
        ).images.float()  # fmt: skip
        tiles, right = [], 0
        for picture, prompt, found in zip(made, prompts, look(reader, made), strict=True):
            parsed = parse_caption(prompt)
            score = obedience(parsed.objects, found, parsed.relations)
            good = all(value == 1 or math.isnan(value) for value in score.values())  # NaN: no relation was asked for
            right += good
            tiles.append(Tile(picture, prompt if good else f"{prompt}: {told(found)}", "good" if good else "bad"))
        name = f"{count}-{composition.replace('_', '-')}.png"
        save_image(grid(tiles), folder / name)
        files.append((name, f"{about}: {right} of {len(tiles)} are as asked; red with what `diorama-judge` finds"))
    return files


def striped(folder: Path) -> Files:
    """Pictures of diorama-sd, and below the same noise under the adapter."""
    pipe = StableDiffusionPipeline.from_pretrained(hub.embedded("diorama-sd"))
    pipe.set_progress_bar_config(disable=True)
    prompts = [caption(scene, "objects", seed=n).text for n, scene in enumerate(scenes_of(1, "iid", ACROSS))]
    tiles = []
    for words in prompts, [""] * len(prompts):
        generators = [torch.Generator().manual_seed(n) for n in range(len(prompts))]
        made = pipe(prompts, num_inference_steps=25, guidance_scale=4.0, output_type="pt", generator=generators)
        tiles += [Tile(picture, said) for picture, said in zip(made.images.float(), words, strict=True)]
        if words is prompts:
            load_adapter(pipe.unet, hub.embedded("diorama-stripes"))
    save_image(grid(tiles), folder / "stripes.png")
    return [("stripes.png", "pictures of `diorama-sd`, and below the same noise and words under the adapter")]


def clip_answers(folder: Path) -> Files:
    """The caption that diorama-clip likes best, of the true one and its foils."""
    clip, tiles, right = load_clip(hub.embedded("diorama-clip")), [], 0
    data = DioramaDataset(split="test", length=1000, num_objects=2, patterns=("plain",), name="gallery")
    cases = [case for n in range(100) if (case := foils_of(data.scene(n), n))][: ACROSS * DOWN]
    for texts, scenes in cases:
        picture = pictures_of(scenes[:1])
        with torch.no_grad():
            seen = encode_images(clip["clip"], preprocess(clip["image_processor"], list(picture)))
            said = encode_texts(clip["clip"], clip["tokenizer"], texts)
        best = texts[int((seen @ said.T).argmax())]
        tiles.append(judged(picture[0], best, texts[0]))
        right += best == texts[0]
    save_image(grid(tiles), folder / "captions.png")
    return [("captions.png", f"the best of five captions, four of them false: {right} of {len(tiles)} are right")]


def readings(folder: Path) -> Files:
    """What diorama-judge reads on renders: the picture, then what it sees, painted."""
    reader, tiles = judge(), []
    scenes = scenes_of(3, "iid", ACROSS)
    pictures = pictures_of(scenes)
    tiles += [Tile(picture, told(look(reader, picture[None])[0])) for picture in pictures]
    tiles += [Tile(seen) for seen in painted(reader, pictures)]
    save_image(grid(tiles), folder / "readings.png")
    return [("readings.png", "renders with what it names, largest first, and below what it sees of each")]


def redrawn(folder: Path) -> Files:
    """Pictures and what their codes become again."""
    tokens = PictureTokens(VQModel.from_pretrained(hub.embedded("diorama-tokens")))
    reader, pictures = judge(), pictures_of(scenes_of(3, "iid", ACROSS))
    with torch.no_grad():
        again = tokens.decode(tokens.encode(pictures))
    tiles = [Tile(picture, "before") for picture in pictures]
    for picture, found, wanted in zip(again, look(reader, again), look(reader, pictures), strict=True):
        same = matched(found, wanted) is not None
        tiles.append(Tile(picture, "reads the same" if same else f"reads {told(found)}", "good" if same else "bad"))
    save_image(grid(tiles), folder / "redrawn.png")
    return [("redrawn.png", "pictures, and below what their codes become again, as `diorama-judge` reads them")]


def told_and_drawn(folder: Path) -> Files:
    """What diorama-world says of pictures, and what it draws of captions."""
    world: Any = AutoWMPipeline.from_pretrained("diorama-world")
    backend, said, reader = world.backend, world.backend.sequences, judge()
    scenes = scenes_of(2, "iid", ACROSS)
    pictures = pictures_of(scenes)
    codes = world.encode(pictures)
    captions = [caption(scene, "objects", seed=n).text for n, scene in enumerate(scenes)]
    shown = [[*said.begin(one.shape), *said.body(one), *said.end] for one in codes]
    asked = [[*said.words(text), *said.begin(codes.shape[1:])] for text in captions]
    with torch.no_grad(), world.reading():
        state, last = backend.read([row[:-1] for row in shown]), [row[-1:] for row in shown]
        words = [world.tokenizer.decode(tokens).strip() for tokens, _ in backend.write_words(state, last, 48)]
        drawn, _ = draw_codes(backend, asked, None, tuple(codes.shape[1:]), list(range(ACROSS)), 1, Sampling())
        made = world.decode(drawn[:, 0])
    tiles = []
    for picture, scene, text in zip(pictures, scenes, words, strict=True):
        right = things(text) == Counter((o.colour, o.shape) for o in scene.objects)
        tiles.append(Tile(picture, text, "good" if right else "bad"))
    for picture, text, found in zip(made, captions, look(reader, made), strict=True):
        right = things(text) == Counter((o.colour, o.shape) for o in found)
        tiles.append(Tile(picture, text, "good" if right else "bad"))
    save_image(grid(tiles), folder / "told.png")
    about = "pictures with what it says of them, and below what it draws of captions; green where all things are right"
    return [("told.png", about)]


def things(text: str) -> Counter | None:
    """Colours and shapes that a caption names; None where it is no caption."""
    try:
        return Counter((o.get("colour"), o.get("shape")) for o in parse_caption(text).objects)
    except ValueError:
        return None


def of_demo(package: str) -> Callable[[Path], Files]:
    """What the demo of a method shows, its still pictures first."""

    def show(folder: Path) -> Files:
        shown = import_module(f"wm_pipelines.{package}.demo").demo(folder, 0)
        save_image(grid(list(shown.row)), folder / "shown.png")
        return [("shown.png", shown.said.removesuffix(".")), *shown.files]

    return show


SHEETS: dict[str, Callable[[Path], Files]] = {
    "diorama-sd": base_pictures,
    "diorama-stripes": striped,
    "diorama-clip": clip_answers,
    "diorama-judge": readings,
    "diorama-tokens": redrawn,
    "diorama-video": of_demo("mojito"),
    "diorama-world": told_and_drawn,
    "world-model": of_demo("world_model"),
    "dynamics": of_demo("world_model"),
    **{name: of_demo(name) for name in ("flexecontrol", "kadaptation", "cpl", "comclip", "discffusion", "morpho4d")},
}


def write_gallery(name: str) -> None:
    """The gallery of an embedded checkpoint, in its folder and on its page."""
    checkpoint = hub.EMBEDDED_ROOT / name
    method = methods()[WMConfig.load(checkpoint).method]
    with tempfile.TemporaryDirectory() as scratch:
        files = SHEETS[name](Path(scratch))
        lines = [f"# {method.title}: gallery", "", "The cases come as they come, none is chosen. Made by", ""]
        lines += ["```bash", f"python benchmarks/gallery.py {name}", "```"]
        for home in (checkpoint, PAGES / name):
            shutil.rmtree(home / "gallery", ignore_errors=True)
            (home / "gallery").mkdir()
            for file, _ in files:
                shutil.copyfile(Path(scratch) / file, home / "gallery" / file)
        for file, words in files:
            lines += ["", f"{words[:1].upper()}{words[1:]}.", "", f"![{words}](gallery/{file})"]
    for home in (checkpoint, PAGES / name):
        write_atomic(home / GALLERY_NAME, "\n".join(lines) + "\n")
    write_card(checkpoint)
    shutil.copyfile(checkpoint / "README.md", PAGES / name / "README.md")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SHEETS)}; default: all")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.names) - set(SHEETS))
    if unknown:
        raise ValueError(f"`names` has {', '.join(unknown)}; there are galleries of {', '.join(SHEETS)}")
    for name in args.names or SHEETS:
        write_gallery(name)
        print(name)


if __name__ == "__main__":
    main()
