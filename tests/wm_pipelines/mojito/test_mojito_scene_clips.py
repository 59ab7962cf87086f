"""Clips for training: what is drawn, what is said of it, what is kept."""

import pytest
import torch

from wm_pipelines.diorama.motion import stays_clear
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.mojito.training.scene_clips import ClipLatents, clip_caption, draw_clip, reversed_words, reversible
from wm_pipelines.runtime.random import keyed


def test_clips_repeat_stay_in_the_frame_and_differ_between_splits():
    for index in range(6):
        scene = draw_clip(index)
        assert scene == draw_clip(index) != draw_clip(index, split="val")
        assert all(stays_clear(scene, o) and o.motion for o in scene.objects)
    assert {len(draw_clip(i, two=1.0).objects) for i in range(2)} == {2}


def test_captions_name_the_motion_and_read_back():
    said = 0
    for index in range(12):
        scene = draw_clip(index)
        text = clip_caption(scene, keyed("caption", index))
        words = parse_caption(text)
        assert len(words.objects) == len(scene.objects) and not words.relations
        said += any(word in text for word in ("moving", "turning", "bouncing", "staying"))
    assert said > 6


def test_backwards_says_the_opposite():
    text = "a red cube moving left, and a blue cone moving towards the camera while turning clockwise"
    back = "a red cube moving right, and a blue cone moving away while turning counterclockwise"
    assert reversed_words(text) == back and reversed_words(back) == text
    stopping = [i for i in range(40) if not reversible(draw_clip(i))]
    assert all("stop" in [m.kind for o in draw_clip(i).objects for m in o.motion] for i in stopping) and stopping


def test_latents_are_kept_and_belong_to_their_clips(tiny_sd, tmp_path):
    cache = tmp_path / "clips.safetensors"
    clips = ClipLatents(tiny_sd["vae"], 2, frames=4, cache=cache)
    assert clips.latents.shape == (2, 4, 4, 16, 16) and clips.flow.shape == (2, 3)
    again = ClipLatents(tiny_sd["vae"], 2, frames=4, cache=cache)
    assert torch.equal(clips.latents, again.latents) and torch.equal(clips.flow, again.flow)
    with pytest.raises(ValueError, match="holds other clips"):
        ClipLatents(tiny_sd["vae"], 3, frames=4, cache=cache)
    cache.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no file of clips"):
        ClipLatents(tiny_sd["vae"], 2, frames=4, cache=cache)
