"""Any model that `wm eval` can ask as a model of lmms-eval; imported by lmms-eval only, through its entry point.

lmms-eval's own model classes need torchvision or decord; this one reads videos with PyAV.
"""

from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.model import lmms
from tqdm import tqdm

from wm_pipelines.evaluation.mcq.frames import sample
from wm_pipelines.evaluation.mcq.loading import model_call
from wm_pipelines.evaluation.mcq.models import Request


class WMLmms(lmms):
    """`--model wm_pipelines --model_args pretrained=NAME,num_frames=8`.

    Args:
        pretrained, endpoint, layout, device, dtype: as for `model_call`.
        num_frames, sampler: which frames of a video are shown, as for `sample`; of a shorter one some twice.
        batch_size: 1; questions are asked one by one, so that no answer depends on another.
    """

    is_simple = False

    def __init__(
        self, pretrained: str, endpoint: str | None = None, layout: str = "images", device: str | None = None,
        dtype: str | None = None, num_frames: int | str = 8, sampler: str = "linspace", batch_size: int | str = 1,
    ):  # fmt: skip
        super().__init__()
        if int(batch_size) != 1:
            raise ValueError(f"`batch_size` is {batch_size!r}; questions are asked one by one: it must be 1")
        self.num_frames, self.sampler = int(num_frames), sampler
        sample(self.num_frames, self.num_frames, sampler)  # refuses what it does not know
        self.wm_model = model_call(pretrained, endpoint, layout, device, dtype)()

    def generate_until(self, requests: list[Any]) -> list[str]:
        replies = []
        for request in tqdm(requests, desc="wm_pipelines"):
            _, to_messages, arguments, place, task, split = request.args
            messages = to_messages(self.task_dict[task][split][place])
            where = f"{task}, document {place}"
            reply = self.wm_model.answer(self._request(where, messages, arguments))
            if reply.error is not None:
                raise ValueError(f"{where} was not answered, which lmms-eval can't count apart: {reply.error}")
            replies.append(reply.text)
        return replies

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise ValueError("`wm_pipelines` answers single questions; tasks of several rounds need another model")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise ValueError("`wm_pipelines` writes replies; tasks by log-likelihood need another model")

    def _request(self, where: str, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> Request:
        if arguments.get("temperature", 0) or arguments.get("do_sample"):
            raise ValueError(f"{where}: `generation_kwargs` asks for sampling; `wm_pipelines` is greedy")
        parts = [part for message in messages for part in message["content"]]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        media = [part for part in parts if part["type"] != "text"]
        shown = [self._frames(where, part) for part in media]
        if len({frames.shape[1:] for frames in shown}) > 1:
            raise ValueError(f"{where}: its pictures have several sizes; `wm_pipelines` takes one")
        return Request(
            prompt=text, question=text, options={}, frames=np.concatenate(shown) if shown else None, fps=None,
            protocol="direct", new_tokens=int(arguments.get("max_new_tokens", 16)),
        )  # fmt: skip

    def _frames(self, where: str, part: dict[str, Any]) -> np.ndarray:
        """uint8 `(k, H, W, 3)` of a video's path, or of a picture."""
        from wm_pipelines.media.video import iter_video

        if part["type"] == "image":
            return np.asarray(part["url"].convert("RGB"))[None]
        if part["type"] != "video":
            raise ValueError(f"{where}: it shows {part['type']}; `wm_pipelines` takes videos and pictures")
        path = Path(part["url"])
        wanted = sample(self.num_frames, sum(1 for _ in iter_video(path)), self.sampler)
        found = {n: frame.pixels.permute(1, 2, 0).numpy() for n, frame in enumerate(iter_video(path)) if n in wanted}
        return np.stack([found[n] for n in wanted])
