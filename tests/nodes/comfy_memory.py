"""Run by ComfyUI's Python, with COMFYUI_PATH set: what its memory manager knows of the pipelines that our nodes fit.

Prints JSON: for each fit node, how often the patcher of its result is among ComfyUI's loaded models, and bytes.
"""

import json
import sys

import torch

BASE, LABELS = "embedded/diorama-clip", "red cube\nred cube\nblue sphere\nblue sphere"
FITS = {
    "WM_KAdaptationFit": {"template": "a {}", "epochs": 1, "seed": 0, "n": 4},
    "WM_CPLFit": {"variant": "released", "lambda_cf": 1.0, "epochs": 1, "learning_rate": 0.002, "seed": 0},
}


def fit(node_id: str) -> dict:
    """Fits by a node, then has ComfyUI load the result."""
    import comfy.model_management

    nodes = {node.__name__: node for node in sys.modules["custom_nodes_x_wm.nodes"].load_nodes()}
    pictures = torch.linspace(0, 1, 4 * 64 * 64 * 3).view(4, 64, 64, 3)
    with torch.inference_mode():
        handle = nodes[node_id].execute(base=BASE, images=pictures, labels=LABELS, **FITS[node_id]).args[0]
    parts = [part for part in handle.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    listed = sum(model.model is handle.patcher for model in comfy.model_management.current_loaded_models)
    loaded = {"after the fit": handle.patcher.loaded_size()}
    handle.load(1, 0, 0)
    loaded["after load"] = handle.patcher.loaded_size()
    everything = [tensor for part in parts for tensor in part.state_dict().values()]  # as ComfyUI counts
    return {
        "name": handle.name,
        "listed": listed,
        "loaded": loaded,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in everything),
    }


if __name__ == "__main__":
    import comfy_contract
    from comfy_start import start

    with start() as answer:
        comfy_contract.describe()  # loads our nodes as ComfyUI does
        answer.write(json.dumps({node_id: fit(node_id) for node_id in FITS}))
