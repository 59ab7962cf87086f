"""For the live test only, copied into its own ComfyUI: which tensors are alive in that process?

It asks Python's collector and knows nothing of our code, so it can't be fooled by our own bookkeeping. It is a route
and not a node, because running another prompt makes ComfyUI drop what the last one left in its cache.
"""

import gc

import torch
from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/wm_test_probe")
async def probe(request: web.Request) -> web.Response:
    """Live tensors, and modules with weights of classes from diffusers, transformers and this package."""
    gc.collect()
    everything = gc.get_objects()
    tensors = [thing for thing in everything if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    # By type, not isinstance: asking some objects for their class runs their code.
    modules = [thing for thing in everything if torch.nn.Module in type(thing).__mro__]
    # transformers keeps its activations, which have no weights, for good.
    kinds = [type(module) for module in modules if any(True for _ in module.parameters())]
    makers = ("diffusers", "transformers", "wm_pipelines")
    ours = [kind for kind in kinds if kind.__module__.split(".")[0] in makers]
    return web.json_response(
        {
            "modules": len(ours),
            "kinds": sorted({kind.__qualname__ for kind in ours}),
            "parameters": sum(type(tensor) is torch.nn.Parameter for tensor in tensors),
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        }
    )


NODE_CLASS_MAPPINGS: dict = {}
