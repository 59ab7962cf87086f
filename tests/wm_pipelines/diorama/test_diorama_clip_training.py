"""diorama-clip: what counts as a negative, and what the export loads as."""

import math

import numpy as np
import torch

from wm_pipelines.diorama.clip_training import CLIPTask, contradiction, true_elsewhere
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import (
    HELD_OUT,
    HELD_OUT_RELATIONS,
    Scene,
    SceneObject,
    clear_relations,
    sample_scene,
)
from wm_pipelines.training import KeyedNoise, Recipe, build, train


def single(colour: str, shape: str, **more) -> Scene:
    return Scene((SceneObject(1, shape, colour, **more),))


def test_a_caption_true_of_another_picture_is_no_negative():
    two = Scene((SceneObject(1, "cube", "red"), SceneObject(2, "cone", "blue", position=(1.5, 0.0, 0.0))))
    pairs = [
        ("a red cube", single("red", "cube", size="small")),
        ("a photo of a large red cube.", single("red", "cube", size="large")),
        ("a blue cone", single("blue", "cone")),
        ("a red cube and a blue cone", two),
        ("a red cube and a blue cone", two),
    ]
    found = true_elsewhere(*zip(*pairs, strict=True))
    # the short caption fits the large cube too, the caption that says "large" doesn't fit the small one
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1, 0] = expected[3, 4] = expected[4, 3] = True
    assert torch.equal(found, expected)


def test_false_negatives_change_no_gradient():
    task = build(Recipe(task="diorama-clip", steps=1, batch_size=2, options={"length": 2}))
    scenes, words = task.scenes, task.words
    task.scenes, task.images.scenes = [scenes[0]] * 2, [scenes[0]] * 2
    task.words = lambda index, noise: words(0, noise)  # one caption twice: nothing is left to tell apart
    assert task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"].item() == 0.0


def test_a_contradiction_is_false_and_names_nothing_held_out():
    seen = set()
    for n in range(300):
        scene = sample_scene("contradiction", n)
        rng = np.random.default_rng(n)
        text = caption(scene, "objects", n, relations=True).text
        false = contradiction(scene, lambda s, n=n: caption(s, "objects", n, relations=True).text, rng)
        if false is None:
            continue
        true, said = parse_caption(text), parse_caption(false)
        looks = sorted((o.colour, o.shape) for o in scene.objects)
        claimed = [(o["colour"], o["shape"]) for o in said.objects]
        assert not HELD_OUT & set(claimed)
        shapes = [o["shape"] for o in said.objects]
        assert all((p, shapes[a], shapes[b]) not in HELD_OUT_RELATIONS for a, p, b in said.relations)
        if sorted(claimed) != looks:
            seen.add("exchange" if sorted(s for _, s in claimed) == sorted(s for _, s in looks) else "shape")
        else:
            assert said.objects == true.objects  # one relation is turned round, and turned round it doesn't hold
            (changed,) = [r for r in said.relations if r not in true.relations]
            ids = [next(o.id for o in scene.objects if (o.colour, o.shape) == claimed[i]) for i in changed[::2]]
            if len(set(claimed)) == len(claimed):
                assert (changed[1], *ids) not in clear_relations(scene)
            seen.add("turn")
    assert seen == {"exchange", "shape", "turn"}


def test_contradictions_are_one_more_wrong_answer_of_their_own_picture():
    recipe = Recipe(task="diorama-clip", steps=1, batch_size=8, options={"length": 8, "contradictions": True})
    task = build(recipe)
    noise = KeyedNoise(0, 0)
    with_them = task.loss(list(range(8)), 0, noise)
    task.options["contradictions"] = False
    without = task.loss(list(range(8)), 0, noise)
    assert with_them["loss"] > without["loss"] and 0 <= with_them["contradicted"] <= 1
    assert "contradicted" not in without and torch.equal(with_them["right"], without["right"])


def test_the_export_loads_plainly_and_reads_any_picture_whole(tmp_path):
    from transformers import AutoTokenizer, CLIPModel, CLIPProcessor

    recipe = Recipe(task="diorama-clip", steps=2, batch_size=4, lr=1e-3, options={"length": 8})
    task = build(recipe)
    before = task.clip.logit_scale.item()
    train(task, recipe, tmp_path)
    folder = tmp_path / "export"
    clip = CLIPModel.from_pretrained(folder)
    assert clip.dtype == torch.float32 and clip.config.text_config.eos_token_id == task.tokenizer.eos_token_id
    assert before != clip.logit_scale.item() <= math.log(100)
    for name, value in task.clip.state_dict().items():
        torch.testing.assert_close(clip.state_dict()[name].to(value.dtype), value, rtol=1e-3, atol=1e-4)
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 6_000_000
    assert AutoTokenizer.from_pretrained(folder).tokenize("a photo of a red cube.")[1] == "photo</w>"

    processor = CLIPProcessor.from_pretrained(folder)
    pictures = task.images.pictures([0])
    same = processor(images=pictures[0].mul(255).byte().permute(1, 2, 0).numpy(), return_tensors="pt").pixel_values
    torch.testing.assert_close(same, pictures * 2 - 1, rtol=0, atol=1e-5)
    wide = torch.zeros(64, 128, 3, dtype=torch.uint8)
    wide[:, -8:] = 255  # what a centre crop would cut off
    seen = processor(images=wide.numpy(), return_tensors="pt").pixel_values
    assert seen.shape == (1, 3, 64, 64) and seen[..., -2:].min() > 0.9
    text = processor(text=["a red cube", "a red cube left of a blue cone"], padding=True, return_tensors="pt")
    with torch.no_grad():
        padded = clip.get_text_features(**text).pooler_output[0]
        alone = clip.get_text_features(text.input_ids[:1, :5]).pooler_output[0]
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)
    mixed = ["a red cube left of a blue cone", "a red cube", "a cone"]
    one_by_one = torch.cat([task.text_features([text]) for text in mixed])
    torch.testing.assert_close(task.text_features(mixed), one_by_one, rtol=1e-5, atol=1e-6)

    again = build(recipe.model_copy(update={"seed": 1}))
    again.load_weights(str(folder))
    for name, value in clip.state_dict().items():
        assert torch.equal(again.clip.state_dict()[name], value)


def test_captions_are_words_of_its_tokenizer():
    task = build(Recipe(task="diorama-clip", steps=1, batch_size=2, options={"length": 30}))
    assert isinstance(task, CLIPTask)
    texts = [task.words(i, KeyedNoise(0, step)) for i in range(30) for step in range(4)]
    share = sum(t.startswith("a photo of ") and t.endswith(".") for t in texts) / len(texts)
    assert 0.12 < share < 0.4
    for text in texts:
        pieces = task.tokenizer.tokenize(text)
        assert all(p.endswith("</w>") for p in pieces) and len(pieces) <= 75
