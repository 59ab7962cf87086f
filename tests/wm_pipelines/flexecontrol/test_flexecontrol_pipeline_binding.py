import pytest
import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.preparing import prepare
from wm_pipelines.flexecontrol.steering.attention import PhraseProcessor
from wm_pipelines.flexecontrol.steering.binding import bind, graph_conditions
from wm_pipelines.text.prompts import find_phrases, locate, phrase_keys, token_index
from wm_pipelines.text.scene_graph import Edge, Node, SceneGraph

PROMPT = "a red cube left of a blue sphere"
GRAPH = SceneGraph((Node("a", "cube", ("red",)), Node("b", "sphere", ("blue",))), (Edge("a", "left of", "b"),))


def assert_in_place(maps, graph):
    compiled = graph.compile(64, 64)
    for node, (start, end) in compiled.spans.items():
        cells = torch.nn.functional.adaptive_max_pool2d(compiled.masks[node][None].float(), 8)[0] > 0
        attention = maps[compiled.caption[start:end]]
        assert attention[~cells].max() == 0 and attention[cells].min() > 0


def decode(tokenizer, prompt, phrase):
    ids = tokenizer(prompt).input_ids
    return tokenizer.decode(ids[phrase.tokens[0] : phrase.tokens[1]]).strip()


@pytest.mark.parametrize("words", ["red cube", "Blue Sphere", "a red cube", "left of a blue"])
def test_tokens_of_a_phrase_spell_the_phrase(tiny_sd, words):
    (phrase,) = find_phrases(tiny_sd["tokenizer"], PROMPT, [(words, None)])
    assert decode(tiny_sd["tokenizer"], PROMPT, phrase) == words.lower()


def test_tokens_of_words_that_are_spelled_in_letters(tiny_sd):
    (phrase,) = find_phrases(tiny_sd["tokenizer"], "a zebra, then a red cube!", [("red cube", None)])
    assert decode(tiny_sd["tokenizer"], "a zebra, then a red cube!", phrase) == "red cube"


def test_a_span_chooses_among_equal_words_and_both_keep_a_name(tiny_sd):
    prompt = "a red cube and a red cube"
    with pytest.raises(ValueError, match=r"occurs 2 times in prompt, at \[\(2, 10\), \(17, 25\)\]; pass span"):
        locate(prompt, "red cube")
    phrases = find_phrases(tiny_sd["tokenizer"], prompt, [("red cube", (2, 10)), ("red cube", (17, 25))])
    assert phrase_keys(phrases) == ["red cube", "red cube@17"]
    assert phrases[0].tokens[1] <= phrases[1].tokens[0]


def test_token_index_leaves_missing_phrases_empty(tiny_sd):
    two = find_phrases(tiny_sd["tokenizer"], PROMPT, [("red cube", None), ("blue sphere", None)])
    index = token_index([two, []], 77)
    assert index.shape == (2, 2, 77) and index[0].sum(-1).tolist() == [2, 2] and not index[1].any()


def test_binding_keeps_a_phrase_in_its_place(sample, square):
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    bound = sample(conditions=condition, phrases=["blue sphere"])
    free = sample(conditions=condition, phrases=["blue sphere"], binding="none")
    (maps,) = bound.attention_maps
    assert maps["red cube"].shape == (8, 8) and maps["red cube"].dtype == torch.float32
    assert maps["red cube"][4:].max() == 0 and maps["red cube"][:, 4:].max() == 0 and maps["red cube"].max() > 0
    assert free.attention_maps[0]["red cube"].min() > 0
    assert maps["blue sphere"].min() > 0
    assert (bound.images - free.images).abs().max() > 1e-5
    cube, sphere = bound.report["prompts"][0]["phrases"]
    assert cube["bound"] and cube["attention_inside"] == 1.0 and cube["region_share"] == 0.25
    assert not sphere["bound"] and "attention_inside" not in sphere
    cube = free.report["prompts"][0]["phrases"][0]
    assert not cube["bound"] and 0 < cube["attention_inside"] < 1


def test_recording_a_phrase_does_not_loosen_a_bound_one(sample, square):
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    alone = sample(conditions=condition).attention_maps[0]["red cube"]
    beside = sample(conditions=condition, phrases=["cube left"]).attention_maps[0]["red cube"]
    assert (alone - beside).abs().max() < 1e-6


def test_binding_follows_the_window_of_its_condition(sample, square):
    early = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5), end=0.4)
    outside = sample(conditions=early).attention_maps[0]["red cube"][4:]
    free = sample(conditions=early, binding="none").attention_maps[0]["red cube"][4:]
    assert 0 < outside.max() < free.max()


def test_attention_maps_are_per_picture_and_off_by_request(sample, square, flex_pipe):
    lists = [[Condition("canny", square(), phrase="red cube")], []]
    prompts = ["a red cube", "a blue sphere"]
    output = sample(prompts, conditions=lists, num_images_per_prompt=2, num_inference_steps=1)
    assert [sorted(maps) for maps in output.attention_maps] == [["red cube"], ["red cube"], [], []]
    assert sample(conditions=lists[0], output_attention=False, num_inference_steps=1).attention_maps is None
    processors = {**flex_pipe.unet.attn_processors, **flex_pipe.control.attn_processors}
    assert not any(isinstance(processor, PhraseProcessor) for processor in processors.values())


def test_without_text_no_phrase_can_be_bound(sample, square, tiny_sd):
    embeds = torch.zeros(1, 77, 16)
    with pytest.raises(ValueError, match="phrases need the text of the prompt"):
        sample(None, prompt_embeds=embeds, conditions=Condition("canny", square(), phrase="red cube"))


def test_a_graph_gives_caption_maps_and_places(sample, tiny_control):
    output = sample(None, scene_graph=GRAPH, num_inference_steps=1)
    report = output.report["prompts"][0]
    assert report["prompt"] == PROMPT
    assert [condition["type"] for condition in report["conditions"]] == ["seg"]  # both stand at one depth
    assert report["conditions"][0]["phrase"] is None
    assert [(phrase["phrase"], phrase["bound"]) for phrase in report["phrases"]] == [
        ("a red cube", True),
        ("a blue sphere", True),
    ]
    assert_in_place(output.attention_maps[0], GRAPH)


def test_changing_the_graph_changes_the_picture_accordingly(sample):
    before = sample(None, scene_graph=GRAPH, num_inference_steps=1)
    after = sample(None, scene_graph=GRAPH.swap(0), num_inference_steps=1)
    assert (before.images - after.images).abs().max() > 1e-4
    assert_in_place(before.attention_maps[0], GRAPH)
    assert_in_place(after.attention_maps[0], GRAPH.swap(0))


def test_depth_order_makes_the_depth_map():
    nodes = (Node("a", "cube", ("red",), box=(0, 0, 0.6, 1)), Node("b", "cone", ("green",), box=(0.4, 0, 1, 1)))
    compiled = SceneGraph(nodes, (Edge("a", "in front of", "b"),)).compile(16, 20)
    seg, depth = graph_conditions(compiled, ("seg", "depth"), [])
    assert (seg.type, depth.type) == ("seg", "depth")
    assert depth.image[0, 8, 2] == 1 and depth.image[0, 8, 10] == 1 and depth.image[0, 8, 18] < 1
    assert torch.equal(seg.image[:, 8, 2], seg.image[:, 8, 10])
    assert not torch.equal(seg.image[:, 8, 2], seg.image[:, 8, 18])
    assert graph_conditions(compiled, ("canny",), []) == []
    assert [c.type for c in graph_conditions(compiled, ("seg", "depth"), [Condition("seg", seg.image)])] == ["depth"]
    assert graph_conditions(SceneGraph().compile(16, 16), ("seg", "depth"), []) == []


def test_explicit_conditions_win_over_the_graph(tiny_sd, square):
    compiled = GRAPH.compile(64, 64)
    explicit = prepare([Condition("canny", square(), phrase="red cube", region=(0.5, 0, 1, 1))], 64, 64, 16)
    binding = bind(tiny_sd["tokenizer"], PROMPT, explicit, [], compiled)
    assert [phrase.text for phrase in binding.phrases] == ["red cube", "a blue sphere"]
    assert list(binding.fixed) == [1] and binding.owners == [0]
    assert torch.equal(binding.regions(explicit, [True])[0], explicit[0].region[0])


def test_a_graph_beside_a_prompt_finds_its_nodes_under_any_article(tiny_sd):
    binding = bind(tiny_sd["tokenizer"], "the red cube and the blue sphere", [], [], GRAPH.compile(64, 64))
    assert [phrase.text for phrase in binding.phrases] == ["red cube", "blue sphere"]
    with pytest.raises(ValueError, match="phrase 'blue sphere' not found in prompt"):
        bind(tiny_sd["tokenizer"], "a red cube", [], [], GRAPH.compile(64, 64))


def test_conflicts_are_told_raised_or_not_looked_for(sample, square):
    near, far = torch.ones(3, 64, 64), torch.zeros(3, 64, 64)
    clashing = [Condition("depth", near), Condition("depth", far, region=(0, 0, 1, 1))]
    told = sample(conditions=clashing, on_conflict="warn", num_inference_steps=1)
    assert told.conflicts and told.conflicts[0].indices == (0, 1)
    assert sample(conditions=clashing, on_conflict="ignore", num_inference_steps=1).conflicts == []
    with pytest.raises(ValueError, match="conditions disagree"):
        sample(conditions=clashing, on_conflict="error")
