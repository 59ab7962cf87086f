import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from wm_pipelines import AutoWMPipeline, DiscffusionPipeline, embedded
from wm_pipelines.adapters.injected import remove, without
from wm_pipelines.config import WMConfig
from wm_pipelines.discffusion import adapter
from wm_pipelines.discffusion.convert import convert_adapter, read_authors, to_peft
from wm_pipelines.discffusion.training import Heads
from wm_pipelines.runtime.noise import randn


@pytest.fixture
def triples(pictures, captions):
    a, b, c = pictures(3)
    return [(a, captions[0], captions[1]), (a, captions[0], [b, c]), (b, captions[1], captions[2:])]


FIT = {"epochs": 3, "learning_rate": 3e-3, "margin": 1.0}


@pytest.mark.slow
def test_a_fit_separates_its_triples_and_repeats_itself(judge, triples, pictures, captions):
    judge.fit(triples, **{**FIT, "epochs": 6})
    assert judge.history[-1]["loss"] < judge.history[0]["loss"]
    state = {k: v.clone() for k, v in adapter.parameters(judge.unet).items()}
    assert not any(p.requires_grad for p in judge.unet.parameters()) and not judge.unet.training
    judge.fit(triples, **{**FIT, "epochs": 6})
    assert all(torch.equal(state[k], v) for k, v in adapter.parameters(judge.unet).items())
    assert len(state) == 2 * 4 * len([n for n, _ in judge.unet.named_modules() if n.endswith((".attn1", ".attn2"))])


@pytest.mark.parametrize("options", [{"score": "lse"}, {"score": "dc"}, {"shared_noise": False}, {"batch_size": 2}])
def test_what_is_trained_can_be_chosen(judge, triples, options):
    judge.fit(triples, **FIT, **options)
    assert all(bool(p.isfinite().all()) for p in adapter.parameters(judge.unet).values())
    assert judge.wm_config.method_config.score == options.get("score", "lse+dc")


@pytest.mark.parametrize("kind", ["gradient", "learned"])
def test_heads_are_weighed(judge, triples, pictures, captions, kind, tmp_path):
    before = judge(pictures(1)[0], captions[0], "lse", timesteps=[500], sites="all").score
    judge.fit(triples, head_weights=kind, **FIT)
    heads = [m.heads for n, m in judge.unet.named_modules() if n.endswith("attn2")]
    assert judge.head_weights.shape == (sum(heads),)
    assert float(judge.head_weights.sum()) == pytest.approx(1, abs=1e-5) and judge.head_weights.std() > 0
    after = judge(pictures(1)[0], captions[0], "lse", timesteps=[500]).score
    judge.save_adapter(tmp_path / "a")
    other = DiscffusionPipeline(**judge.components)
    with without(judge.unet):
        other.load_adapter(tmp_path / "a")
        remove(other.unet)
    torch.testing.assert_close(other.head_weights, judge.head_weights, atol=1e-6, rtol=0)
    assert not torch.equal(before, after)


def test_importance_is_that_of_the_gates():
    heads = Heads(torch.tensor([0.5, 0.25, 0.25]), "gradient")
    (heads() @ torch.tensor([1.0, -4.0, 0.0])).backward()
    torch.testing.assert_close(heads.final(), torch.tensor([0.5, 1.0, 0.0]) / 1.5)


@pytest.mark.slow
def test_checkpointing_changes_no_fit(judge, triples):
    judge.fit(triples, **FIT)
    plain = {k: v.clone() for k, v in adapter.parameters(judge.unet).items()}
    judge.fit(triples, gradient_checkpointing=True, **FIT)
    for name, value in adapter.parameters(judge.unet).items():
        torch.testing.assert_close(value, plain[name], atol=1e-5, rtol=1e-4)


def test_a_fit_that_fails_leaves_everything_as_it_was(judge, triples, pictures, captions):
    judge.fit(triples, head_weights="learned", **FIT)
    before = judge(pictures(1)[0], captions[0], timesteps=[500]).score
    weights = judge.head_weights

    def stop(*_):
        raise RuntimeError("stop")

    for name in ("callback_on_step_end", "callback_on_epoch_end"):
        with pytest.raises(RuntimeError, match="stop"):
            judge.fit(triples, **{name: stop}, **FIT)
    with pytest.raises(ValueError, match="`triples`"):
        judge.fit([], **FIT)
    with pytest.raises(ValueError, match="`head_weights`"):
        judge.fit(triples, head_weights="none")
    assert judge.head_weights is weights
    assert torch.equal(judge(pictures(1)[0], captions[0], timesteps=[500]).score, before)


@pytest.mark.slow
def test_the_adapter_of_the_embedded_base_is_small_and_loads_over_it(pictures, tmp_path):
    pipe = DiscffusionPipeline.from_pretrained(embedded("diorama-sd"))
    pipe.set_progress_bar_config(disable=True)
    a, b = pictures(2)
    texts = ["a red cube", "a blue sphere"]
    pipe.fit([(a, texts[0], texts[1])], epochs=2, learning_rate=1e-2, margin=9.0)
    pipe.save_adapter(tmp_path / "own", torch.float16)
    assert sum(f.stat().st_size for f in (tmp_path / "own").iterdir()) <= 0.3e6
    config = WMConfig.load(tmp_path / "own")
    assert (config.method, config.base_model.embedded) == ("discffusion", "diorama-sd")
    again = AutoWMPipeline.from_pretrained(tmp_path / "own")
    again.set_progress_bar_config(disable=True)
    assert isinstance(again, DiscffusionPipeline)
    ours, theirs = (p(a, texts, timesteps=[300, 600]).score for p in (pipe, again))
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
    with without(pipe.unet):
        plain = pipe(a, texts, timesteps=[300, 600]).score
        loaded = PeftModel.from_pretrained(pipe.unet, tmp_path / "own")  # PEFT reads our files too
        assert any("lora_A" in name for name, _ in loaded.named_parameters())
        loaded.unload()
    assert (plain - ours).abs().max() > 1e-3


@pytest.mark.slow
def test_a_whole_pipeline_keeps_base_and_adapter_apart(judge, triples, pictures, captions, tmp_path):
    judge.fit(triples, **FIT)
    score = judge(pictures(1)[0], captions[0], timesteps=[500]).score
    judge.save_pretrained(tmp_path / "whole")
    saved = load_file(tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors")
    assert not [key for key in saved if "lora" in key or "base_layer" in key]
    assert torch.equal(judge(pictures(1)[0], captions[0], timesteps=[500]).score, score)
    again = DiscffusionPipeline.from_pretrained(tmp_path / "whole")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(pictures(1)[0], captions[0], timesteps=[500]).score, score)


@pytest.mark.parametrize("based", [True, False])
def test_an_adapter_saved_over_another_leaves_nothing_of_it(judge, triples, pictures, captions, tmp_path, based):
    other = DiscffusionPipeline.from_pretrained(embedded("diorama-sd")) if based else judge
    other.set_progress_bar_config(disable=True)
    other.fit(triples, **FIT, head_weights="learned")
    other.save_adapter(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    judge.fit(triples, **FIT)
    judge.save_adapter(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "notes.txt",
    ]  # fmt: skip
    judge.fit(triples, **FIT, head_weights="learned")
    judge.load_adapter(tmp_path)
    assert judge.head_weights is None


def test_a_judge_of_a_judges_parts_weighs_heads_alike(judge, triples, pictures, captions):
    judge.fit(triples, **FIT, head_weights="learned")
    again = DiscffusionPipeline.from_parts(judge)
    given = (pictures(1)[0], captions)
    assert torch.equal(again(*given, timesteps=[500]).score, judge(*given, timesteps=[500]).score)


def authors_state(unet, rank=4):
    """Tensors under the authors' names, for every attention layer."""
    state = {}
    for name, layer in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            for what in ("q", "k", "v", "out"):
                linear = layer.to_out[0] if what == "out" else getattr(layer, f"to_{what}")
                key = f"{name}.processor.to_{what}_lora"
                state[f"{key}.down.weight"] = 0.3 * randn((rank, linear.in_features), key, "down")
                state[f"{key}.up.weight"] = 0.3 * randn((linear.out_features, rank), key, "up")
    return state


@torch.no_grad()
def test_the_authors_adapter_equals_merged_weights(judge, wm, tmp_path):
    state = authors_state(judge.unet)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert "numbers in" in wm("convert", "discffusion", tmp_path / "pytorch_model.bin", tmp_path / "out")
    args = randn((2, 4, 16, 16), "x"), torch.tensor([5, 700]), randn((2, 77, 16), "y")
    adapter.load(judge.unet, tmp_path / "out")
    found = judge.unet(*args).sample
    remove(judge.unet)
    plain = judge.unet(*args).sample
    for name, layer in judge.unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            for what, linear in zip("qkv", (layer.to_q, layer.to_k, layer.to_v), strict=True):
                key = f"{name}.processor.to_{what}_lora"
                linear.weight += state[f"{key}.up.weight"] @ state[f"{key}.down.weight"]
            key = f"{name}.processor.to_out_lora"
            layer.to_out[0].weight += state[f"{key}.up.weight"] @ state[f"{key}.down.weight"]
    torch.testing.assert_close(found, judge.unet(*args).sample, atol=1e-5, rtol=1e-5)
    assert (found - plain).abs().max() > 1e-2
    assert WMConfig.load(tmp_path / "out").base_model.repo_id == "stabilityai/stable-diffusion-2-1-base"


def test_other_files_are_no_adapter_of_the_authors(judge, tmp_path):
    state = authors_state(judge.unet)
    name = next(iter(state))
    with pytest.raises(ValueError, match="other half"):
        to_peft({k: v for k, v in state.items() if k != name})
    with pytest.raises(ValueError, match="layout"):
        to_peft({**state, "unet.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="no whole adapter"):
        to_peft({})
    (tmp_path / "bad.bin").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="plain torch file of tensors"):
        read_authors(tmp_path / "bad.bin")
    with pytest.raises(ValueError, match="none.bin' does not exist"):
        convert_adapter(tmp_path / "none.bin", tmp_path / "out", "diorama-sd")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="`base` is 'no name'; it must be an embedded name or a Hub id"):
        convert_adapter(tmp_path / "pytorch_model.bin", tmp_path / "out", "no name")
    assert not (tmp_path / "out").exists()


def test_adapters_of_other_denoisers_are_refused(judge, triples, tmp_path):
    judge.fit(triples, **FIT)
    judge.save_adapter(tmp_path / "a")
    path = tmp_path / "a" / adapter.WEIGHTS_FILE
    before = {k: v.clone() for k, v in adapter.parameters(judge.unet).items()}
    state = load_file(path)
    save_file({k: v for n, (k, v) in enumerate(state.items()) if n}, path)
    with pytest.raises(ValueError, match="another denoiser"):
        judge.load_adapter(tmp_path / "a")
    config = tmp_path / "a" / adapter.CONFIG_FILE
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "LOHA"}))
    with pytest.raises(ValueError, match="no LoRA"):
        judge.load_adapter(tmp_path / "a")
    assert all(torch.equal(before[k], v) for k, v in adapter.parameters(judge.unet).items())
