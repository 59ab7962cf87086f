"""The readers that `fuzz.py` attacks, each with whole files; a new reader is one more line."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_models
import fuzz_questions
import fuzz_scenes
import numpy as np
import torch
from fuzz import Reader
from PIL import Image
from safetensors.torch import save as tensors_as_bytes


def readers(work: Path) -> Iterator[Reader]:
    """Every reader. `work` is an empty folder for what the whole files need."""
    yield from texts()
    yield from tables(work)
    yield from pictures(work)
    yield from tracks()
    yield from weights(work)
    for more in (fuzz_questions, fuzz_scenes, fuzz_models):
        (work / more.__name__).mkdir()
        yield from more.readers(work / more.__name__)
    yield from checkpoints(work)


def texts() -> list[Reader]:
    """Texts of no certain meaning, and those of our own records."""
    from wm_pipelines.diorama.actions import Action
    from wm_pipelines.diorama.scene import Scene, sample_scene
    from wm_pipelines.graph_transformer.graph import AttentionGraph
    from wm_pipelines.graph_transformer.parsing import read_graph
    from wm_pipelines.hub import EMBEDDED_ROOT
    from wm_pipelines.media.regions import read_regions
    from wm_pipelines.runtime import readers as strict
    from wm_pipelines.text.scene_graph import SceneGraph
    from wm_pipelines.training import load_recipe, recipe_path

    caption = "a red cube left of a blue sphere"
    record = (EMBEDDED_ROOT / "cpl" / "wm_config.json").read_bytes()
    values = _json({"a": [1, 2.5, None, {"b": "c"}], "d": True})
    scene = sample_scene("fuzz", 0).to_json().encode()
    said = {"subject": "cube", "verb": "left of", "object": "sphere"}
    facts = _json({"objects": {"cube": ["red"], "sphere": ["blue"]}, "connections": [said]})
    made = read_graph(json.loads(facts), caption).to_json().encode()
    action = Action("remove", 1).to_json().encode()
    nodes = [{"id": "a", "name": "cube", "box": [0.1, 0.1, 0.4, 0.4]}, {"id": "b", "name": "sphere"}]
    drawn = _json({"nodes": nodes, "edges": [{"subject": "a", "predicate": "left of", "object": "b"}]})
    region = _json({"version": 1, "shapes": [{"box": [0, 0, 0.5, 1]}, {"polygon": [[0, 0], [1, 0.5], [0.25, 1]]}]})
    graph = _json({"entities": [{"head": "cube", "span": "red cube", "modifiers": []}], "relations": []})
    return [
        Reader("json", strict.read_json, (values, record), ".json"),
        Reader("jsonl", strict.read_jsonl, (values + b"\n" + values + b"\n",), ".jsonl"),
        Reader("csv", lambda path: strict.read_csv(path, ["a", "b"]), (b'a,b\n1,"x\ny"\n2,z\n',), ".csv"),
        Reader("yaml", strict.read_yaml, (b"a: [1, 2]\nb: {c: d}\ne: |\n  text\n", values), ".yaml"),
        Reader("npy", strict.read_array, (_npy(np.arange(12.0).reshape(3, 4)), _npy(np.ones(3, bool))), ".npy"),
        Reader("record", _record, (record,), ".json"),
        Reader("recipe", load_recipe, (recipe_path("diorama-judge").read_bytes(),), ".yaml"),
        Reader("scene", lambda path: Scene.from_json(strict.read_text(path)), (scene,), ".json"),
        Reader("action", lambda path: Action.from_json(strict.read_text(path)), (action,), ".json"),
        Reader("scene graph", lambda path: SceneGraph.from_json(strict.read_text(path)), (drawn,), ".json"),
        Reader("region", lambda path: read_regions(strict.read_text(path)), (region,), ".json"),
        Reader("attention graph", lambda path: AttentionGraph.from_json(strict.read_text(path)), (made,), ".json"),
        Reader("graph of text", lambda path: read_graph(strict.read_text(path), caption), (facts, graph), ".json"),
    ]


def tables(work: Path) -> list[Reader]:
    """Tables of data sets."""
    from wm_pipelines.comclip import data as comclip
    from wm_pipelines.cpl.convert import read_negatives, read_pickled_negatives
    from wm_pipelines.data import caption_pairs as pairs
    from wm_pipelines.data.flickr import read_flickr30k
    from wm_pipelines.discffusion import data as judged
    from wm_pipelines.dynamics.data import read_aurora
    from wm_pipelines.tokens.convert import read_config

    row = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a dog"}, {"raw": "a cat"}]}
    vl = _json([["a.jpg", {"POS": ["a red cube"], "NEG": ["a blue cube"]}]])
    said = {"subject": "cube", "verb": "on", "object": "table"}
    parsed = _json({"objects": {"cube": ["red"]}, "connections": [said]})
    vqgan = b"""model:
  params:
    embed_dim: 64
    n_embed: 64
    ddconfig: {double_z: false, z_channels: 64, resolution: 32, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 2],
      num_res_blocks: 1, attn_resolutions: [16], dropout: 0.0}
"""
    Image.new("RGB", (8, 8)).save(work / "a.png")
    aurora = _json([{"instruction": "push it", "input": "a.png", "output": "a.png"}])
    svo = (
        b"sentence,pos_triplet,neg_triplet,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg\n"
        b'a dog eats rice,"dog,eat,rice","dog,sell,rice",1,2,False,True,False\n'
    )
    comvg = b"id,sentence_id,sentence,pos_image_id,neg_image_id,pos_triplet,neg_triplet,neg_value,neg_type\n"
    comvg += b'1,1,a dog sits on a mat,1,2,"dog,sit on,mat","cat,sit on,mat",cat,subj\n'
    return [
        Reader("flickr30k", lambda path: read_flickr30k(path, work, "test"), (_json({"images": [row]}),), ".json"),
        Reader("vl-checklist", lambda path: pairs.read_vl_checklist(path, work), (vl,), ".json"),
        Reader("svo-probes", lambda path: pairs.read_svo_probes(path, work), (svo,), ".csv"),
        Reader("comvg", lambda path: pairs.read_comvg(path, work), (comvg,), ".csv"),
        Reader("refcocog", judged.read_refcocog, folder=_refcocog(work / "refcocog")),
        Reader("vqa", judged.read_vqa, folder=_vqa(work / "vqa")),
        Reader("pairs table", judged.read_pairs, folder=_pairs(work / "pairs table")),
        Reader("aurora", lambda path: read_aurora(path, work), (aurora,), ".json"),
        Reader("dense captions", comclip.read_dense_captions, (_json({"a cube": [[0, 0, 5, 5.5]]}),), ".json"),
        Reader("matches", comclip.read_matches, (_json({"cube": ["red cube"]}),), ".json"),
        Reader("parsed captions", comclip.read_parsed, (parsed,), ".json"),
        Reader("negatives", read_negatives, (_json({"a dog": "a cat"}),), ".json"),
        Reader("negatives, pickled", read_pickled_negatives, (_npy_pickle({"a": "b"}),), ".npy"),
        Reader("vqgan.yaml", read_config, (vqgan,), ".yaml"),
    ]


def pictures(work: Path) -> list[Reader]:
    """Pictures and videos."""
    from wm_pipelines.media import pictures as stills
    from wm_pipelines.media.video import read_video, write_video

    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    exif = Image.Exif()
    exif[274] = 6
    still = [_picture(photo, form) for form in ("PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")]
    still += [_picture(photo, "JPEG", exif=exif), _picture(photo.convert("P"), "PNG", transparency=3)]
    still += [_picture(Image.fromarray(noise[..., 0].astype(np.uint16) * 200), "PNG")]
    files = [write_video([noise] * 6, work / f"clip{suffix}") for suffix in (".mp4", ".webm", ".mkv")]
    clips = [path.read_bytes() for path in files]
    return [
        Reader("picture", stills.load_image, tuple(still)),
        Reader("mask", stills.load_mask, tuple(still)),
        Reader("label picture", stills.read_labels, (still[7], still[8], _picture(photo.convert("L"), "BMP"))),
        Reader("video", lambda path: read_video(path, max_frames=50), tuple(clips)),
    ]


def tracks() -> list[Reader]:
    """Tracks and boxes of other tools."""
    from wm_pipelines.mojito.trajectories.formats import boxes, points
    from wm_pipelines.mojito.trajectories.reading import load_trajectory
    from wm_pipelines.runtime.readers import read_text

    def path_of(format: str, **options: Any) -> Any:
        return lambda path: load_trajectory(path, format, num_frames=8, phrases=["cube"], **options)

    keys = [{"frame": 0, "box": [0, 0, 50, 100]}, {"frame": 4, "box": [50, 0, 100, 100]}]
    own = _json({"version": 1, "canvas": [100, 200], "objects": [{"phrase": "red cube", "keyframes": keys}]})
    kj = _json([[{"x": 10 + n, "y": 20} for n in range(12)]])
    freetraj = b"0, 0.1, 0.4, 0.1, 0.4\n7, 0.5, 0.9, 0.5, 0.9\n"
    trailblazer = b"keyframe:\n- bbox_ratios: [0.1, 0.2, 0.3, 0.4]\n  frame: 0\n  prompt: a cube\ntoken_inds: [1, 2]\n"
    tracks = np.full((2, 121, 1, 3), 240.0, np.float32)
    sized = {"canvas": (100, 200), "size": (0.2, 0.2)}
    return [
        Reader("trajectory json", lambda path: load_trajectory(path), (own,), ".json"),
        Reader("freetraj", path_of("freetraj"), (freetraj,), ".txt"),
        Reader("trailblazer", lambda path: boxes.read_trailblazer(read_text(path)), (trailblazer,), ".yaml"),
        Reader("peekaboo", lambda path: boxes.read_peekaboo(read_text(path)), (_peekaboo(),), ".jsonl"),
        Reader("kjnodes", path_of("kjnodes", **sized), (kj,), ".json"),
        Reader("tora", path_of("tora", size=(0.2, 0.2)), (b"100, 120\n130, 140\n",), ".txt"),
        Reader("motionctrl", lambda path: points.read_motionctrl(read_text(path)), (b"[[10, 20], [30, 40]]",), ".txt"),
        Reader("ati", path_of("ati", **sized), (_npz(array=tracks), _torch_zip(_npz(array=tracks)), kj), ".pth"),
    ]


def weights(work: Path) -> list[Reader]:
    """Files of tensors, and adapters on a tiny model."""
    from wm_pipelines.adapters.kronecker import KroneckerConfig, load_adapter, load_lokr, save_adapter
    from wm_pipelines.hub.weights import read_torch_file
    from wm_pipelines.runtime.tensors import read_tensors

    def tiny() -> torch.nn.Module:
        return torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8), "v_proj": torch.nn.Linear(8, 8)})

    def adapted(config: KroneckerConfig, name: str) -> Path:
        from peft import inject_adapter_in_model

        model = tiny()
        inject_adapter_in_model(config, model, "default")
        return Path(save_adapter(model, work / name))

    folder = adapted(KroneckerConfig(n=2, r=1, target_modules=["q_proj", "v_proj"]), "kronecker")
    named = adapted(KroneckerConfig(n=2, r=2, target_modules=r".*(q|v)_proj", shared_sets={".*": "one"}), "patterns")
    lokr = {"lora_unet_q_proj.alpha": torch.tensor(1.0)}
    lokr |= {f"lora_unet_q_proj.lokr_{key}": torch.ones(size) for key, size in (("w1", (2, 2)), ("w2", (4, 4)))}
    plain = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}
    pickled = io.BytesIO()
    torch.save({"state_dict": plain}, pickled)
    return [
        Reader("safetensors", read_tensors, (tensors_as_bytes(plain, {"format": "pt"}),), ".safetensors"),
        Reader("torch file", read_torch_file, (pickled.getvalue(),), ".pt"),
        Reader("adapter", lambda path: load_adapter(tiny(), path), folder=folder),
        Reader("adapter with patterns", lambda path: load_adapter(tiny(), path), folder=named),
        Reader("lokr", lambda path: load_lokr(tiny(), path),
               (tensors_as_bytes(lokr, {"a": "[1]"}),), ".safetensors"),
        *users_parts(tiny),
    ]  # fmt: skip


def users_parts(tiny: Callable[[], torch.nn.Module]) -> list[Reader]:
    """Files of the user's that go into a loaded pipeline."""
    from types import SimpleNamespace

    from diffusers import AutoencoderKL, MotionAdapter

    from wm_pipelines.hub.user_parts import add_lora, read_vae
    from wm_pipelines.mojito.user_motion import read_motion_adapter

    lora = {"lora_unet_q_proj.lora_down.weight": torch.ones(2, 8), "lora_unet_q_proj.lora_up.weight": torch.ones(8, 2)}
    lora["lora_unet_q_proj.alpha"] = torch.tensor(2.0)
    like = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1)
    motion = MotionAdapter((32, 32), motion_layers_per_block=1)
    theirs = {key.replace(".pos_embed.", ".pos_encoder."): tensor for key, tensor in motion.state_dict().items()}
    theirs["down_blocks.0.motion_modules.0.pos_encoder.pe"] = torch.zeros(1, 32, 32)

    def vae(path: Path) -> Any:
        return read_vae(path, like)

    def merged(path: Path) -> int:
        return add_lora(SimpleNamespace(unet=tiny()), path)

    return [
        Reader("LoRA of the user's", merged, (tensors_as_bytes(lora, {}),), ".safetensors"),
        Reader("VAE of the user's", vae, (tensors_as_bytes(dict(like.state_dict()), {}),), ".safetensors"),
        Reader("motion adapter of the user's", read_motion_adapter, (tensors_as_bytes(theirs, {}),), ".safetensors"),
    ]


def checkpoints(work: Path) -> list[Reader]:
    """Whole folders, by the loaders and by the commands."""
    from wm_pipelines.cpl.modeling import CPLPromptLearner
    from wm_pipelines.diorama.judge import DioramaJudge
    from wm_pipelines.hub import EMBEDDED_ROOT
    from wm_pipelines.hub.cards import render_card
    from wm_pipelines.hub.publishing import validate
    from wm_pipelines.kadaptation.modeling import KAdaptationHead
    from wm_pipelines.pipeline import AutoWMPipeline

    def folder(name: str) -> Path:
        copy = work / f"whole-{name}"
        if not copy.exists():
            shutil.copytree(EMBEDDED_ROOT / name, copy)
        return copy

    def auto(path: Path) -> Any:
        return AutoWMPipeline.from_pretrained(path, verify=False)

    return [
        Reader("cpl folder", auto, folder=folder("cpl"), share=0.03),
        Reader("kadaptation folder", auto, folder=folder("kadaptation"), share=0.03),
        Reader("comclip folder", auto, folder=folder("comclip"), share=0.03),
        Reader("judge", DioramaJudge.from_pretrained, folder=folder("diorama-judge"), share=0.3),
        Reader("prompt learner", CPLPromptLearner.from_pretrained, folder=folder("cpl")),
        Reader("head", KAdaptationHead.from_pretrained, folder=folder("kadaptation")),
        Reader("validate", validate, folder=folder("cpl"), share=0.1),
        Reader("card", render_card, folder=folder("cpl"), share=0.1),
    ]


def _refcocog(folder: Path) -> Path:
    _pictures(folder / "images", [f"COCO_train2014_{n:012d}.jpg" for n in range(12)])
    said = [{"split": "val", "image_id": n, "sentences": [{"sent": f"the thing {n}"}]} for n in range(12)]
    (folder / "refs.json").write_bytes(_json(said))
    return folder


def _vqa(folder: Path) -> Path:
    _pictures(folder / "val2014", [f"COCO_val2014_{n:012d}.jpg" for n in range(12)])
    asked = [{"question_id": n, "image_id": n, "question": f"what is {n}?"} for n in range(12)]
    told = [{"question_id": n, "answer_type": "other", "multiple_choice_answer": f"it {n}"} for n in range(12)]
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_bytes(_json({"questions": asked}))
    (folder / "v2_mscoco_val2014_annotations.json").write_bytes(_json({"annotations": told}))
    return folder


def _pairs(folder: Path) -> Path:
    _pictures(folder, ["a.png", "b.png"])
    rows = b"a.png,a cube,image,b.png\nb.png,a cube,caption,a ball\n"
    (folder / "pairs.csv").write_bytes(b"image,caption,kind,foil\n" + rows)
    return folder


def _pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)


def _record(path: Path) -> Any:
    from wm_pipelines.config import CONFIG_NAME, WMConfig

    folder = path.parent / "record"
    folder.mkdir(exist_ok=True)
    (folder / CONFIG_NAME).write_bytes(path.read_bytes())
    return WMConfig.load(folder)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npy_pickle(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(value, dtype=object), allow_pickle=True)
    return file.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _torch_zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(data, protocol=2))
    return file.getvalue()


def _picture(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _peekaboo() -> bytes:
    boxes = [[0.1, 0.1, 0.4, 0.4]] * 16
    return _json([{"caption": "a cube", "subject": "cube", "bboxes": boxes}])
