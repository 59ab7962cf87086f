"""Training on Diorama questions with a context and on a folder of rows: what is learnt from, kept and exported."""

import json
import re

import pytest
import torch
from PIL import Image

from wm_pipelines.graph_transformer.data import FolderTask, QuestionFolder
from wm_pipelines.graph_transformer.parsing import auto_graph, joined_text
from wm_pipelines.graph_transformer.scenes import ANSWERS, ASKED, WORDS, ContextQuestions, SceneTask
from wm_pipelines.graph_transformer.tables import Table
from wm_pipelines.graph_transformer.words import build_tokenizer, words_of
from wm_pipelines.training import KeyedNoise, Recipe, build

SMALL = {"width": 16, "layers": 2, "heads": 2, "mlp": 32, "patch": 16, "size": 32, "text_length": 96}
FEW = {"length": 6, "contexts": ["facts"], "families": ["lookup"], "rows": 4}


def recipe(task="graph-transformer", options=None, **fields):
    given = {"lr": 1e-2, "steps": 2, "batch_size": 3, **fields}
    own = FEW if task == "graph-transformer" else {}
    return Recipe(task=task, options={**SMALL, **own, **(options or {})}, **given)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A file with six questions, so that they are made once."""
    path = tmp_path_factory.mktemp("questions") / "cache.safetensors"
    ContextQuestions(6, ["facts"], ["lookup"], 4, size=32, cache=str(path))
    return str(path)


@pytest.fixture
def scenes(cache):
    return lambda options=None, **fields: build(recipe(options={"cache": cache, **(options or {})}, **fields))


# questions of the miniature world


@pytest.mark.parametrize("family", ASKED)
def test_every_question_can_be_read_and_answered(family):
    contexts = ["facts", "table", "graph"] if "lookup" in family else ["graph"]
    questions = ContextQuestions(len(contexts), contexts, [family], 4, "test", size=16)
    tokenizer = build_tokenizer(questions.words, 128)
    for index in range(questions.length):
        row = questions.row(index)
        text = joined_text(row.question, row.context)
        assert row.answer in ANSWERS and set(questions.options[index]) <= set(ANSWERS)
        assert set(re.findall(r"\w+", text)) <= set(WORDS)
        row.graph.check_text(text)
        assert row.graph.edges and len(tokenizer(row.question, row.context).input_ids) <= 128
        assert all(text[slice(*node.span)].strip() for node in row.graph.nodes)
        own = [n for n, node in enumerate(row.graph.nodes) if node.span[1] <= len(row.question)]
        told = [n for n in range(len(row.graph.nodes)) if n not in own]
        assert row.graph.adjacency()[own][:, told].any()  # question and context touch


def test_the_parser_reads_what_the_world_says():
    """Rows of tables are read whole; of facts and places, who is tied to what."""
    questions = ContextQuestions(6, ["facts", "graph", "table"], ["lookup"], 4, "test", size=16)
    right = said = 0
    for n in range(6):
        row = questions.row(n)
        text = joined_text(row.question, row.context)
        wanted, found = _ties(row.graph, text), _ties(auto_graph(row.question, row.context), text)
        if n % 3 < 2:
            right, said = right + len(wanted & found), said + len(wanted)
        else:
            assert {tie for tie in wanted if min(tie)[0] > len(row.question)} <= found
    assert right / said > 0.5


def _ties(graph, text):
    """Pairs of nodes by the end of their spans, so that articles do not count."""
    ends = [node.span[1] for node in graph.nodes]
    return {tuple(sorted(((ends[i],), (ends[j],)))) for i, j, _ in graph.edges if ends[i] != ends[j]}


def test_a_cache_gives_the_same_questions(cache):
    again, anew = (ContextQuestions(6, ["facts"], ["lookup"], 4, size=32, cache=c) for c in (cache, None))
    assert torch.equal(again.rgb, anew.rgb) and again.rows == anew.rows and again.options == anew.options
    with pytest.raises(ValueError, match="holds other questions"):
        ContextQuestions(5, ["facts"], ["lookup"], 4, size=32, cache=cache)
    with open(cache + ".bad", "wb") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="no file of questions"):
        ContextQuestions(6, ["facts"], ["lookup"], 4, size=32, cache=cache + ".bad")


def test_splits_and_compositions_differ():
    kinds = ["facts"], ["lookup"]
    texts = [ContextQuestions(2, *kinds, split=split, size=16).row(0).context for split in ("train", "val", "test")]
    assert len(set(texts)) == 3
    held = ContextQuestions(1, *kinds, split="test", composition="held_out", size=16).row(0)
    assert held.context not in texts
    for options, said in (
        ({"contexts": ["poem"]}, "options.contexts.*facts, table, graph"), ({"families": []}, "options.families"),
        ({"split": "rest"}, "options.split"), ({"composition": "x"}, "options.composition"), ({"length": 0}, "length"),
        ({"rows": 99}, "`rows` is 99"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ContextQuestions(**{"length": 1, "contexts": ["facts"], "families": ["lookup"], **options})


# the task


def test_a_task_depends_on_its_seed_alone(scenes):
    one, same, other = scenes(), scenes(), scenes(seed=1)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, same.model.state_dict()[name])
    assert not torch.equal(one.model.classifier[0].weight, other.model.classifier[0].weight)
    assert not one.bias.ghat.any() and one.length == 6 and "6 questions" in one.data


def test_the_loss_is_that_of_the_pipeline(scenes):
    task = scenes()
    task.model.eval()
    indices = [4, 1, 0]
    rows = [task.source.row(i) for i in indices]
    out = task.pipeline(
        torch.stack([task.source.picture(i) for i in indices]), [r.question for r in rows], [r.context for r in rows]
    )
    targets = torch.tensor([task.source.answers.index(r.answer) for r in rows])
    found = task.loss(indices, 0, KeyedNoise(0, 0))
    torch.testing.assert_close(found["loss"], torch.nn.functional.cross_entropy(out.logits, targets))
    assert float(found["right"]) == (out.logits.argmax(1) == targets).float().mean()
    task.options["loss"] = "bce"
    hot = torch.nn.functional.one_hot(targets, len(ANSWERS)).float()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(out.logits, hot) * len(ANSWERS)
    torch.testing.assert_close(task.loss(indices, 0, KeyedNoise(0, 0))["loss"], wanted)


def test_arms_differ_in_the_graph_alone(scenes):
    logits = {}
    for graph in ("auto", "given", "random", None):
        task = scenes({"graph": graph})
        logits[graph] = task.logits([0, 1, 2]).detach()
    values = list(logits.values())
    assert all(not torch.equal(a, b) for n, a in enumerate(values) for b in values[:n])
    task = scenes({"graph": None, "bias": None})
    assert "quasi_attention" not in task.modules() and torch.equal(task.logits([0, 1, 2]).detach(), logits[None])


def test_the_bias_learns_faster_and_does_not_decay(scenes):
    from wm_pipelines.training.trainer import Trainer

    task = scenes(weight_decay=0.5, lr=1e-3, steps=10)
    trainer = Trainer(task, recipe(weight_decay=0.5, lr=1e-3, steps=10), torch.device("cpu"))
    with torch.no_grad():
        task.bias.ghat.fill_(1.0)
        weight = task.model.classifier[0].weight
        before = weight.clone()
    weight.grad.copy_(torch.ones_like(weight))
    task.bias.ghat.grad.copy_(torch.ones_like(task.bias.ghat))
    trainer.recipe = trainer.recipe.model_copy(update={"clip": 0.0})
    trainer.update(0)
    torch.testing.assert_close(task.bias.ghat.detach(), torch.full_like(task.bias.ghat, 1 - 1e-2))
    torch.testing.assert_close(weight.detach(), before * (1 - 0.5e-3) - 1e-3)


def test_a_run_trains_saves_resumes_and_is_sealed(cache, tmp_path):
    from wm_pipelines import AutoWMPipeline
    from wm_pipelines.hub.sealing import seal_run
    from wm_pipelines.training import train, train_main

    settings = {**SMALL, **FEW, "cache": cache, "soft": True, "bias": "per_layer"}
    over = [f"options.{name}={json.dumps(value)}" for name, value in settings.items()]
    over += ["steps=6", "batch_size=3", "lr=1e-2", "warmup=2", "save_every=3", "log_every=1"]
    record = train_main("graph-transformer", None, tmp_path / "run", over)
    assert record.steps == 6 and "Diorama questions with facts" in record.data
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"loss", "right", "empty_graphs"} <= set(log[-1]) and log[-1]["loss"] < log[0]["loss"]
    whole = Recipe(**record.recipe)
    train(build(whole), whole, tmp_path / "again")  # the same weights
    for one in (tmp_path / "run" / "export").rglob("*.safetensors"):
        other = tmp_path / "again" / one.relative_to(tmp_path / "run")
        assert one.read_bytes() == other.read_bytes()
    config = seal_run(tmp_path / "run", tmp_path / "sealed")
    assert config.method == "graph-transformer" and config.pipeline == "GraphTransformerPipeline"
    assert config.method_config.image_size == 32 and "anna" in config.vocabulary
    pipe = AutoWMPipeline.from_pretrained(tmp_path / "sealed")
    assert pipe.answers == list(ANSWERS) and pipe.quasi_attention.config.soft and pipe.model.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    questions = ContextQuestions(6, ["facts"], ["lookup"], 4, size=32, cache=cache)
    row = questions.row(0)
    out = pipe(questions.picture(0), row.question, row.context, candidates=list(questions.options[0]))
    assert out.answers[0] in questions.options[0] and not out.empty
    with pytest.raises(ValueError, match="has the word 'pianos'"):
        pipe(questions.picture(0), "where are the pianos?")
    # another run starts from it
    task = build(whole)
    assert task.load_weights(str(tmp_path / "sealed"))["parameters"] > 10_000
    torch.testing.assert_close(task.bias.ghat, pipe.quasi_attention.ghat)
    other = build(whole.model_copy(update={"options": {**whole.options, "width": 32}}))
    with pytest.raises(ValueError, match="init_from: .* of other sizes"):
        other.load_weights(str(tmp_path / "sealed"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grahp": "auto"}, "unknown 'grahp', did you mean 'graph'"),
        ({"graph": "mine"}, "options.graph is 'mine'; allowed: auto, given, random, None"),
        ({"loss": "mse"}, "options.loss"),
        ({"bias": "some"}, "options.bias"),
        ({"regions": "near"}, "`regions` is 'near'"),
        ({"patch": 5}, "options.size is 32; it must be a multiple of options.patch"),
        ({"heads": 3}, "options.width is 16"),
        ({"base": "diorama-clip"}, "type 'clip'"),
        ({"text_length": 20}, "row 0: .*the model takes 20"),
    ],
)
def test_options_that_can_not_be_are_refused(scenes, options, said):
    with pytest.raises(ValueError, match=said):
        scenes(options).loss([0, 1], 0, KeyedNoise(0, 0))


# a folder of one's own


@pytest.fixture
def folder(tmp_path, picture):
    for n in range(2):
        Image.fromarray(picture(n, 32, 40)).save(tmp_path / f"p{n}.png")
    told = Table(("name",), (("ann",),)).text()
    given = {"nodes": [{"span": [10, 13]}, {"span": [19, 22]}], "edges": [[0, 1]]}
    rows = [
        ("p0", "what is left of the dog?", "cat", {"text": "the cat is left of the dog."}),
        ("p1", "what does ann own?", "dog", {"text": "ann.", "graph": given}),
        ("p0", "is the cat behind the dog?", "no", {"graph": "g.json"}),
        ("p1", "how old is ann?", "no", {"text": told}),
    ]
    rows = [{"picture": f"{name}.png", "question": q, "answer": a, **more} for name, q, a, more in rows]
    (tmp_path / "g.json").write_text('{"nodes": [{"span": [3, 10]}, {"span": [18, 25]}], "edges": [[0, 1, "behind"]]}')
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_a_folder_is_read(folder):
    source = QuestionFolder(folder)
    assert source.length == 4 and source.answers == ["cat", "dog", "no"] and "2 with a graph" in source.data
    assert source.row(0).graph is None and len(source.row(2).graph.nodes) == 3  # with the phrase "behind"
    assert source.row(1).context == "ann." and source.picture(1).size == (40, 32)
    assert {"what", "left", "ann", "name", "1"} <= set(source.words)
    (folder / "answers.txt").write_text("no\nyes\ncat\ndog\n")
    assert QuestionFolder(folder).answers == ["no", "yes", "cat", "dog"]


def test_a_folder_trains_a_new_model_and_a_given_one(folder, vilt, tokenizer, image_processor, tmp_path):
    from wm_pipelines.training import train

    new = recipe("graph-transformer-folder", {"data": str(folder), "base": None}, batch_size=4)
    task = build(new)
    assert isinstance(task, FolderTask) and task.row(0)[2].edges and len(task.row(2)[2].nodes) == 3
    train(task, new, tmp_path / "new")
    for part in (vilt, tokenizer, image_processor):
        part.save_pretrained(tmp_path / "base")
    given = recipe("graph-transformer-folder", {"data": str(folder), "base": str(tmp_path / "base")}, batch_size=4)
    task = build(given)
    assert task.model.config.num_labels == 3 and torch.equal(
        task.model.vilt.pooler.dense.weight, vilt.vilt.pooler.dense.weight
    )
    train(task, given, tmp_path / "given")
    from wm_pipelines import GraphTransformerPipeline

    pipe = GraphTransformerPipeline.from_pretrained(tmp_path / "given" / "export")
    assert pipe.answers == ["cat", "dog", "no"] and pipe.tokenizer.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[]", "line 5: a row is an object"),
        ('{"picture": "p0.png", "question": "x", "answer": "cat", "words": 1}', "line 5: unknown field 'words'"),
        ('{"picture": "p0.png", "question": " ", "answer": "cat"}', "line 5: `question` is ' '"),
        ('{"picture": "p0.png", "question": "x"}', "`answer` is None"),
        ('{"picture": "p9.png", "question": "x", "answer": "cat"}', "'p9.png' is no file of the folder"),
        ('{"picture": "../p0.png", "question": "x", "answer": "cat"}', "line 5: a picture must be a file inside"),
        ('{"picture": "p0.png", "question": "x", "answer": "cat", "text": ""}', "`text` is ''"),
        ('{"picture": "p0.png", "question": "x", "answer": "cat", "graph": "h.json"}', "'h.json' is no file"),
        ('{"picture": "p0.png", "question": "x", "answer": "cat", "graph": {"nodes": [{"span": [0, 9]}]}}', "beyond"),
        ("{", "line 5"),
    ],
)
def test_rows_that_are_none_are_named(folder, row, said):
    with open(folder / "questions.jsonl", "a") as file:
        file.write("\n" + row)
    with pytest.raises(ValueError, match=said):
        QuestionFolder(folder)


def test_a_folder_without_rows_or_with_other_answers(folder, tmp_path):
    (folder / "answers.txt").write_text("no\nyes\n")
    with pytest.raises(ValueError, match="the answer 'cat' is not in answers.txt"):
        QuestionFolder(folder)
    (folder / "answers.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="two or more different answers, got 1"):
        QuestionFolder(folder)
    with pytest.raises(ValueError, match="has no questions.jsonl"):
        QuestionFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="options.data is missing"):
        build(recipe("graph-transformer-folder", {"base": None}))


def test_a_tokenizer_knows_its_words_and_spells_others():
    tokenizer = build_tokenizer(["cube", "a"], 9)
    assert tokenizer.tokenize("A cube, cubes, an?") == ["a", "cube", ",", "cube", "##s", ",", "a", "##n", "?"]
    assert tokenizer.model_max_length == 9 and words_of(["Red cube.", "a red-cube"]) == ["a", "cube", "red"]
    assert isinstance(SceneTask.defaults["contexts"], list)
