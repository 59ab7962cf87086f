"""A whole denoising step under torch.compile without a graph break, regional compilation, device maps."""

import pytest
import torch
from accelerate import infer_auto_device_map
from torch._dynamo.utils import counters

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.steering.plan import Request, make_plan
from wm_pipelines.flexecontrol.steering.stages import Frame, Stages, attention_state, hooks

CPU = torch.device("cpu")


@pytest.fixture
def fresh():
    """Nothing compiled before or after."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def step(flex_pipe, square):
    """`step(phrase, run)`: calls `run(predict, tensors)` with the hooks of a stage in place, as the sampler does."""

    def within(phrase, run):
        condition = Condition("canny", square(), phrase=phrase, region=(0, 0, 0.5, 0.5))
        request = Request("a red cube", 1, condition, None, None, size=(64, 64), steps=2)
        plan = make_plan(flex_pipe.control, flex_pipe.tokenizer, str, request)
        state = attention_state(
            plan.bindings, 1, bind=True, record_stride=2, latent_size=(16, 16), text_length=77, device=CPU
        )
        frame = Frame(1, (64, 64), 1.0, normalise_overlap=False, device=CPU)
        stages = Stages(flex_pipe.control, plan, frame, bind=state is not None)
        flex_pipe.scheduler.set_timesteps(2)
        flex_pipe._guidance_scale = 4.0
        embeds = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(1))
        with torch.no_grad(), hooks(flex_pipe.unet, flex_pipe.control, state) as enter:
            stage = stages.at(0, 2)
            enter(stage, 2)
            for seed, t in enumerate(flex_pipe.scheduler.timesteps):
                latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
                run(flex_pipe.predict_noise, (latents, t, embeds, stage, 1.0))
                if state is not None:
                    assert len(state.maps) == 4
                    state.maps.clear()

    return within


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_step_is_one_graph(fresh, step, backend):
    """`fullgraph` refuses any break; the phrase adds recording and binding."""
    compiled, close = [], {"rtol": 0, "atol": 0} if backend == "eager" else {"rtol": 1e-3, "atol": 1e-4}

    def run(predict, given):
        expected = predict(*given)
        compiled[:] = compiled or [torch.compile(predict, backend=backend, fullgraph=True)]
        torch.testing.assert_close(compiled[0](*given), expected, **close)

    step("red cube", run)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1  # also for other latents and the next timestep


def test_the_repeated_blocks_compile_alone(fresh, tiny_control):
    import copy

    control = copy.deepcopy(tiny_control)
    control.compile_repeated_blocks(backend="eager", fullgraph=True)
    compiled = [m for m in control.modules() if m._compiled_call_impl is not None]
    assert compiled and {type(m).__name__ for m in compiled} == {"BasicTransformerBlock"}
    features = [torch.randn(1, w, s, s) for w, s in zip((8, 12, 12), (16, 8, 4), strict=True)]
    given = torch.randn(1, 4, 16, 16), torch.tensor(5), torch.randn(1, 77, 16), features
    with torch.no_grad():
        expected, found = tiny_control(*given, return_dict=False), control(*given, return_dict=False)
    assert all(torch.equal(a, b) for a, b in zip(expected[0], found[0], strict=True))


def test_a_device_map_splits_no_block(tiny_control):
    size = sum(p.numel() * p.element_size() for p in tiny_control.parameters())
    places = infer_auto_device_map(
        tiny_control,
        max_memory={"cpu": size // 2, "disk": 2 * size},
        no_split_module_classes=tiny_control._no_split_modules,
    )
    assert set(places.values()) == {"cpu", "disk"}
    for name, module in tiny_control.named_modules():
        if type(module).__name__ in tiny_control._no_split_modules:
            assert not [place for place in places if place.startswith(f"{name}.")], name
