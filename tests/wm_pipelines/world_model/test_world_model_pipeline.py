"""Candidates, their scores and what is chosen, for every family: the promises of a call, and what is refused."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.world_model.selection import Gate

ACTIONS = ["move the red cube", "turn a cone to left", "remove the blue cube little"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=["plain", "liquid", "chameleon", "emu3"])
def pair(request, token_models):
    parts = token_models.make_parts(request.param)
    return WorldModelPipeline(**parts), DynamicsModelPipeline(**parts)


@pytest.fixture(scope="module")
def plain(token_models):
    parts = token_models.make_parts("plain")
    return WorldModelPipeline(**parts), DynamicsModelPipeline(**parts)


@pytest.fixture(scope="module")
def pictures(token_models):
    return token_models.pictures(3)


def test_what_a_call_gives(pair, pictures):
    world, judge = pair
    out = world(list(pictures[:2]), ACTIONS[:2], num_candidates=3, verifier=judge, generator=seeded())
    assert out.image_tokens.shape == (2, 3, 16) and out.image_tokens.dtype == torch.int64
    assert 0 <= out.image_tokens.min() and out.image_tokens.max() < 16
    assert out.scores.shape == out.margins.shape == out.kept.shape == out.logprobs.shape == (2, 3)
    assert (out.scores <= 0).all() and out.change.shape == (2, 3, 4, 4)
    assert [len(row) for row in out.images] == [3, 3] and out.images[0][0].size == (16, 16)
    kept = out.scores.masked_fill(~out.kept, -torch.inf)
    assert torch.equal(out.selected, kept.argmax(1))
    rows = torch.arange(2)
    assert torch.equal(out.accepted, out.margins[rows, out.selected] > 0)
    assert all(out.chosen()[n] is out.images[n][out.selected[n]] for n in (0, 1))
    named, as_tuple = (world(pictures[0], ACTIONS[0], generator=seeded(), return_dict=kind) for kind in (True, False))
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[1], named.image_tokens)


def test_two_are_the_first_of_four(pair, pictures):
    world, _ = pair
    two, four = (world(pictures[0], ACTIONS[0], n, generator=seeded(3), return_candidates=False) for n in (2, 4))
    assert torch.equal(two.image_tokens, four.image_tokens[:, :2]) and len(four.image_tokens[0].unique(dim=0)) > 1
    assert torch.allclose(two.logprobs, four.logprobs[:, :2], atol=1e-4)
    assert [len(row) for row in four.images] == [1]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.6}])
def test_four_are_the_first_of_eight_and_generators_reproduce(plain, pictures, options):
    world, _ = plain
    options = {**options, "return_candidates": False}
    four, eight, again, other = (
        world(pictures[0], ACTIONS[0], n, generator=seeded(seed), **options)
        for n, seed in ((4, 3), (8, 3), (8, 3), (8, 4))
    )
    assert torch.equal(four.image_tokens, eight.image_tokens[:, :4])
    assert torch.equal(again.image_tokens, eight.image_tokens)
    assert not torch.equal(other.image_tokens, eight.image_tokens)
    state = seeded(3)
    first, second = (world(pictures[0], ACTIONS[0], generator=state) for _ in range(2))
    assert not torch.equal(first.image_tokens, second.image_tokens)  # a generator goes on


def test_a_batch_is_what_each_is_alone(pair, pictures):
    """Prompts of three lengths, so padding and positions matter."""
    world, judge = pair
    generators = [seeded(n) for n in range(3)]
    options = {"num_candidates": 2, "verifier": judge, "return_candidates": False}
    many = world(list(pictures), ACTIONS, generator=generators, **options)
    for n in range(3):
        one = world(pictures[n], ACTIONS[n], generator=seeded(n), **options)
        assert torch.equal(one.image_tokens[0], many.image_tokens[n])
        for key in ("scores", "margins", "logprobs"):
            assert torch.allclose(one[key][0], many[key][n], atol=1e-4)
    scores = judge.score(list(pictures), list(pictures.flip(0)), ACTIONS)
    alone = [judge.score(pictures[n], pictures[2 - n], ACTIONS[n]) for n in range(3)]
    assert torch.allclose(scores, torch.cat(alone), atol=1e-4)


def test_the_prompt_is_read_once_and_each_code_costs_one_token(pair, pictures):
    world, judge = pair
    world.backend.forwards = 0
    spent = {}
    for n in (1, 8):
        world.backend.forwards = 0
        world(pictures[0], ACTIONS[0], num_candidates=n, generator=seeded(), return_candidates=False)
        spent[n] = world.backend.forwards
    said = world.backend.sequences
    prompt = len(said.forward_prompt(world.encode(pictures[:1])[0], ACTIONS[0])) - 1
    row_ends = len(said.row_end) * 3  # behind each row but the last
    assert spent[1] - (16 + row_ends) == spent[8] - 8 * (16 + row_ends) == prompt
    if not row_ends:
        assert spent[8] - spent[1] == 7 * 16
    codes = torch.randint(0, 16, (1, 8, 4, 4), generator=seeded())
    source = world.encode(pictures[:1])
    spent = []
    for n in (1, 8):
        judge.backend.forwards = 0
        judge.score_codes(source, codes[:, :n], ACTIONS[:1])
        spent.append(judge.backend.forwards)
    head = len(judge.backend.sequences.inverse_head(source[0])) - 1
    assert spent[1] - head == 8 * (spent[0] - head)


@torch.no_grad()
def test_temperature_zero_takes_the_likeliest_code_of_the_stock_model(pair, pictures):
    world, _ = pair
    out = world(pictures[0], ACTIONS[0], temperature=0, num_candidates=2)
    made, ids = world.backend, world.backend.codes.ids
    row = made.sequences.forward_prompt(world.encode(pictures[:1])[0], ACTIONS[0])
    total = 0.0
    for place in range(16):
        decoder = made.model.model(input_ids=torch.tensor([row]))[0]
        logits = made.model.lm_head(decoder)[0, -1, ids].float()
        code = int(out.image_tokens[0, 0, place])
        assert int(logits.argmax()) == code
        total += float(logits.log_softmax(0)[code])
        row.append(int(ids[code]))
        if (place + 1) % 4 == 0:
            row += made.sequences.row_end
    assert torch.equal(out.image_tokens[0, 0], out.image_tokens[0, 1])
    assert abs(total / 16 - float(out.logprobs[0, 0])) < 1e-4


def test_sampling_follows_the_probabilities(token_models, pictures):
    """Of 400 candidates the first codes are spread as the model says."""
    world = WorldModelPipeline(**token_models.make_parts("plain"))
    out = world(pictures[0], ACTIONS[0], num_candidates=400, generator=seeded(), return_candidates=False)
    made = world.backend
    row = made.sequences.forward_prompt(world.encode(pictures[:1])[0], ACTIONS[0])
    with torch.no_grad():
        logits = made.model(torch.tensor([row])).logits[0, -1, made.codes.ids].float()
    expected = logits.softmax(0)
    found = torch.bincount(out.image_tokens[0, :, 0], minlength=16) / 400
    assert (found - expected).abs().max() < 0.08
    top = logits.topk(3).indices.tolist()
    few = world(pictures[0], ACTIONS[0], num_candidates=50, generator=seeded(), top_k=3).image_tokens[0, :, 0]
    assert set(few.tolist()) <= set(top) and len(few.unique()) > 1


def test_guidance_is_liquids(token_models, pictures):
    world = WorldModelPipeline(**token_models.make_parts("liquid"))
    out = world(pictures[0], ACTIONS[0], guidance_scale=3.0, temperature=0)
    made, source = world.backend, world.encode(pictures[:1])[0]
    rows = [made.sequences.forward_prompt(source, ACTIONS[0]), made.sequences.unconditional_prompt(source)]
    with torch.no_grad():
        for place in range(16):
            each = (made.model(torch.tensor([row])).logits[0, -1, made.codes.ids].float() for row in rows)
            with_words, without = each
            code = int((without + 3 * (with_words - without)).argmax())
            assert code == int(out.image_tokens[0, 0, place])
            rows = [[*row, int(made.codes.ids[code])] for row in rows]
    with pytest.raises(ValueError, match="`guidance_scale` needs a checkpoint whose layout has `unconditional`"):
        WorldModelPipeline(**token_models.make_parts("plain"))(pictures[0], ACTIONS[0], guidance_scale=2.0)


def test_codes_are_scored_without_a_way_through_pixels(plain, pictures):
    world, judge = plain
    out = world(pictures[0], ACTIONS[0], num_candidates=4, verifier=judge, generator=seeded())
    source, codes = world.encode(pictures[:1]), out.image_tokens.reshape(1, 4, 4, 4)
    direct = judge.score_codes(source, codes, ACTIONS[:1])
    copy = judge.score_codes(source, source[:, None], ACTIONS[:1])
    assert torch.allclose(out.scores, direct, atol=1e-5) and torch.allclose(out.margins, direct - copy, atol=1e-5)
    # a random tokeniser doesn't give a code back from its picture: the way through pixels scores something else
    pixels = world(pictures[0], ACTIONS[0], num_candidates=4, verifier=judge, generator=seeded(), rescore_pixels=True)
    assert torch.equal(pixels.image_tokens, out.image_tokens) and not torch.allclose(pixels.scores, out.scores)


def test_other_codes_need_pixels(token_models, plain, pictures):
    world, _ = plain
    parts = token_models.make_parts("plain")
    stranger = DynamicsModelPipeline(**{**parts, "vq": token_models.make_vq(seed=7)})
    with pytest.raises(ValueError, match="use different VQ tokenisers; set `rescore_pixels=True`"):
        world(pictures[0], ACTIONS[0], num_candidates=2, verifier=stranger)
    out = world(pictures[0], ACTIONS[0], num_candidates=2, verifier=stranger, rescore_pixels=True)
    assert out.scores.isfinite().all()


def test_pickers_by_likelihood_and_by_a_callable(plain, pictures):
    world, _ = plain
    out = world(pictures[0], ACTIONS[0], num_candidates=5, verifier="likelihood", generator=seeded())
    assert torch.equal(out.scores, out.logprobs) and out.margins.isnan().all()
    assert int(out.selected) == int(out.logprobs.masked_fill(~out.kept, -torch.inf).argmax())
    seen = []

    def darkest(source, candidates, action):
        seen.append((tuple(source.shape), tuple(candidates.shape), action))
        return -candidates.mean((1, 2, 3))

    out = world(pictures[0], ACTIONS[0], num_candidates=5, verifier=darkest, generator=seeded(), output_type="pt")
    assert seen == [((3, 16, 16), (6, 3, 16, 16), ACTIONS[0])]  # the copy comes last
    assert torch.allclose(out.scores[0], -out.images[0].mean((1, 2, 3)))
    for broken in (lambda *_: [0.0], lambda s, c, a: torch.full((len(c),), torch.nan)):
        with pytest.raises(ValueError, match="`verifier` gave .* it must give one finite number for each"):
            world(pictures[0], ACTIONS[0], num_candidates=2, verifier=broken)


def test_without_a_verifier_nothing_is_ranked_and_it_says_so(plain, pictures, capture):
    world, _ = plain
    out = world(pictures[0], ACTIONS[0], num_candidates=3, generator=seeded())
    assert out.scores.isnan().all() and out.selected.tolist() == [0] and len(out.images[0]) == 3
    assert "num_candidates>1 without a verifier: all candidates are returned unranked" in capture.text
    capture.clear()
    world(pictures[0], ACTIONS[0], generator=seeded())
    assert "unranked" not in capture.text


@pytest.fixture
def capture(caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def test_near_copies_are_dropped_before_ranking(plain, pictures, capture):
    """A verifier that loves the source: the copy would win, and only what changed is ranked."""
    from wm_pipelines.world_model.selection import choose

    scores = torch.tensor([[0.0, -2.0, -1.0]])
    change = torch.zeros(1, 3, 4, 4)
    change[0, 1, 0, 0], change[0, 2, :, 0] = 0.5, 0.5
    for gate, kept, selected in (
        (Gate(), [False, True, True], 2),
        (Gate(min_changed=2), [False, False, True], 2),
        (Gate(min_changed=0), [True, True, True], 0),
        (Gate(threshold=0.6), [False, False, False], 0),
    ):
        choice = choose(scores, scores + 1.5, change, gate)
        assert choice.kept[0].tolist() == kept and int(choice.selected) == selected
        assert bool(choice.accepted) == kept[selected]
    assert not choose(scores, scores - 5, change, Gate()).accepted.any()
    assert not choose(scores, scores + 1.5, change, Gate(min_margin=1.0)).accepted.any()
    assert choose(scores, scores + 1.5, change, Gate(min_margin=0.4)).accepted.all()
    world, judge = plain
    out = world(pictures[0], ACTIONS[0], num_candidates=2, verifier=judge, gate=Gate(threshold=1e9))
    assert not out.accepted.any() and "every candidate is a near copy" in capture.text
    out = world(pictures[0], ACTIONS[0], num_candidates=2, verifier=judge, gate=Gate(min_margin=1e9))
    assert not out.accepted.any() and "no margin is enough" in capture.text


def test_rollouts_go_on_from_the_chosen_codes(plain, pictures):
    world, judge = plain
    options = {"num_candidates": 3, "verifier": judge}
    steps = world.rollout(pictures[0], ACTIONS, generator=seeded(5), **options)
    assert len(steps) == 3 and all(len(step.images[0]) == 1 for step in steps)
    made = world.backend
    codes, state = world.encode(pictures[:1]), seeded(5)
    for step, action in zip(steps, ACTIONS, strict=True):
        from wm_pipelines.world_model.pipeline import draw_seeds
        from wm_pipelines.world_model.sampling import Sampling, draw_codes

        prompt = [made.sequences.forward_prompt(codes[0], action)]
        found, _ = draw_codes(made, prompt, None, (4, 4), draw_seeds(state, 1), 3, Sampling())
        assert torch.equal(found.flatten(2), step.image_tokens)
        codes = found[:, int(step.selected)]
    one = world(pictures[0], ACTIONS[0], generator=seeded(5), **options)
    assert torch.equal(one.image_tokens, steps[0].image_tokens)
    remembering = world.rollout(pictures[0], ACTIONS, generator=seeded(5), history=2, **options)
    assert torch.equal(remembering[0].image_tokens, steps[0].image_tokens)
    assert not torch.equal(remembering[2].image_tokens, steps[2].image_tokens)


def test_a_history_that_is_too_long_says_what_to_do(token_models, pictures):
    world = WorldModelPipeline(**token_models.make_parts("plain", context=100))
    assert len(world.rollout(pictures[0], ACTIONS, generator=seeded())) == 3
    with pytest.raises(ValueError, match=r"context 1\d\d exceeds 100: reduce `history`"):
        world.rollout(pictures[0], ACTIONS, history=2, generator=seeded())


BAD = {
    "action": [("", "`action` is empty"), ("  ", "`action` is empty"), (["move"] * 2, "2 sentences for 1 pictures"),
               ([3], "it must be a sentence"), (None, "0 sentences")],
    "num_candidates": [(0, "must be an integer, 1 or more"), (True, "True"), (1.5, "1.5")],
    "temperature": [(-1.0, "must be 0 or more"), (float("nan"), "nan")],
    "top_k": [(0, "1 or more"), (2.0, "2.0")],
    "top_p": [(0.0, r"must lie in \(0, 1\]"), (1.1, "1.1")],
    "guidance_scale": [(0.0, "above 0")],
    "output_type": [("np", "allowed: pil, pt")],
    "resize": [("stretch", "allowed: pad, crop")],
    "verifier": [("judge", "it must be a DynamicsModelPipeline, 'likelihood', a callable or None"), (3, "3")],
    "generator": [([torch.Generator()] * 2, "2 for 1 sources")],
    "source": [([], "`source` is empty"), (torch.rand(3, 20, 16), "is 20x16, but the model takes 16x16")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), [(n, v, m) for n, cases in BAD.items() for v, m in cases])
def test_bad_input_is_refused_before_any_work(plain, pictures, name, value, message):
    world, _ = plain
    world.backend.forwards = 0
    arguments = {"source": pictures[0], "action": ACTIONS[0], name: value}
    with pytest.raises(ValueError, match=message) as error:
        world(**arguments)
    assert name in str(error.value) and world.backend.forwards == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"actions": []}, "`actions` is"),
        ({"actions": "move"}, "must be a list"),
        ({"actions": ["move", ""]}, "is empty"),
        ({"actions": ["move"], "history": -1}, "`history` is -1"),
        ({"actions": ["move"], "history": True}, "`history`"),
    ],
)
def test_bad_rollouts(plain, pictures, values, message):
    with pytest.raises(ValueError, match=message):
        plain[0].rollout(pictures[0], **values)


@pytest.mark.parametrize("values", [{"threshold": -1.0}, {"min_changed": -1}, {"min_changed": 1.5}])
def test_bad_gates(values):
    with pytest.raises(ValueError, match=f"`{next(iter(values))}` is"):
        Gate(**values)


@pytest.mark.slow
def test_one_backbone_two_adapters_and_a_save_that_loads_bit_equal(token_models, pictures, tmp_path):
    from wm_pipelines.dynamics.adapters import add_adapter

    parts = token_models.make_parts("plain")
    base = WorldModelPipeline(**parts)(pictures[0], ACTIONS[0], generator=seeded()).logprobs
    for name in ("dynamics", "world"):
        add_adapter(parts["model"], name, rank=2)
    with torch.no_grad():
        for name, parameter in parts["model"].named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5 + ("world" in name), generator=seeded(1))
    world, judge = WorldModelPipeline(**parts), DynamicsModelPipeline(**parts)
    out = world(pictures[0], ACTIONS[0], num_candidates=2, verifier=judge, generator=seeded())
    assert not torch.equal(out.logprobs[:, :1], base)
    world.save_pretrained(tmp_path / "saved")
    again = world(pictures[0], ACTIONS[0], num_candidates=2, generator=seeded())  # saving took nothing away
    assert torch.equal(again.logprobs, out.logprobs)
    names = {name for name in load_file(tmp_path / "saved" / "model" / "model.safetensors")}
    assert names <= set(token_models.make_model("plain").state_dict())  # as the stock class names them
    torch.save({"picture": pictures[0]}, tmp_path / "picture.pt")
    code = f"""
import torch
from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
world = WorldModelPipeline.from_pretrained({str(tmp_path / "saved")!r})
judge = DynamicsModelPipeline(**world.components, layout=world.layout)
picture = torch.load({str(tmp_path / "picture.pt")!r})["picture"]
out = world(picture, {ACTIONS[0]!r}, num_candidates=2, verifier=judge, generator=torch.Generator().manual_seed(0))
print(out.image_tokens.tolist(), out.scores.double().tolist(), out.logprobs.double().tolist())
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).splitlines()[-1]
    wanted = f"{out.image_tokens.tolist()} {out.scores.double().tolist()} {out.logprobs.double().tolist()}"
    assert said == wanted
