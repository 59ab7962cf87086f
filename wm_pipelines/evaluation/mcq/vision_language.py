"""A transformers model that takes pictures or videos and text (`AutoModelForImageTextToText`) as a model that answers.

Frames are given as several pictures in time order (`layout="images"`), all on one picture ("grid"), or as a video.
"""

import hashlib
import os
from typing import Any

import numpy as np
import torch

from wm_pipelines.evaluation.mcq.frames import grid
from wm_pipelines.evaluation.mcq.items import Frames
from wm_pipelines.evaluation.mcq.models import Reply, Request, check_layout
from wm_pipelines.runtime.devices import on_accelerator

MARKED = 2**16


class VisionLanguageModel:
    """Asks a model through its processor, one question at a time and greedily, so that nothing depends on a batch.

    Args:
        model: an `AutoModelForImageTextToText`. processor: its processor.
        layout: "images", "grid" or "video".
        name: in rows; the folder or Hub id that it was loaded from by default.

    Attributes:
        weights: a mark of the files that they were loaded from, None where nobody knows.

    Raises:
        ValueError: there is no slot for pictures, only one where several are needed, or no video processor.
    """

    def __init__(self, model: Any, processor: Any, layout: str = "images", name: str | None = None):
        check_layout(layout)
        self.model, self.processor, self.layout = model, processor, layout
        own = getattr(model.config, "_name_or_path", "") or type(model).__name__
        revision = getattr(model.config, "_commit_hash", None)
        self.name = name or os.path.basename(os.path.normpath(own)) + (f"@{revision[:12]}" if revision else "")
        if layout != "images":
            self.name += f", {layout}"
        self.weights: str | None = None
        self._check_slots()

    def check(self, protocol: str) -> None:
        """ValueError where log-likelihoods are asked for and a letter of the options is no token of its own."""
        if protocol == "loglik":
            self._letters("ABCDEF")

    @torch.no_grad()
    def answer(self, request: Request) -> Reply:
        inputs = self._inputs(request.prompt, request.frames, request.fps)
        if request.protocol == "loglik":
            logits = self.model(**inputs).logits[0, -1].float().log_softmax(-1)
            tokens = self._letters(request.options)
            return Reply(scores={letter: float(logits[ids].logsumexp(0)) for letter, ids in tokens.items()})
        made = self.model.generate(**inputs, max_new_tokens=request.new_tokens, do_sample=False)[0]
        if not self.model.config.is_encoder_decoder:
            made = made[inputs["input_ids"].shape[1] :]
        cut = len(made) >= request.new_tokens and int(made[-1]) not in self._ends()
        return Reply(text=self.tokenizer.decode(made, skip_special_tokens=True), truncated=cut)

    @property
    def tokenizer(self) -> Any:
        """The processor's, or the processor itself where it is one."""
        return getattr(self.processor, "tokenizer", self.processor)

    def _ends(self) -> set[int]:
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        return set(ends) if isinstance(ends, list) else {ends}

    def _letters(self, letters: Any) -> dict[str, list[int]]:
        """Letter -> its tokens, alone and behind a space; ValueError where it is never one token."""
        found = {}
        for letter in letters:
            ways = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (letter, f" {letter}")]
            ids = {way[0] for way in ways if len(way) == 1} - {self.tokenizer.unk_token_id}
            if not ids:
                raise ValueError(f"`protocol` is 'loglik', but {letter!r} is no token of {self.name}; use 'direct'")
            found[letter] = sorted(ids)
        return found

    def _inputs(self, prompt: str, frames: Frames | None, fps: float | None) -> dict[str, Any]:
        pictures, kind = None, "image"
        if frames is not None and self.layout == "video":
            kind = "video"
        elif frames is not None:
            pictures = _pictures(grid(frames) if self.layout == "grid" else frames)
        slots = 0 if frames is None else 1 if kind == "video" else len(pictures)
        given: dict[str, Any] = {"text": [self._text(prompt, kind, slots)], "return_tensors": "pt"}
        if frames is not None and kind == "video":
            rate = {"fps": fps, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
            given |= {"videos": [frames], "do_sample_frames": False, "video_metadata": [rate]}
        elif pictures:
            given["images"] = pictures
        if self._template() and self.tokenizer.bos_token and given["text"][0].startswith(self.tokenizer.bos_token):
            given["add_special_tokens"] = False
        made = self.processor(**given)
        return {name: self._moved(value) for name, value in made.items() if name != "token_type_ids" or pictures}

    def _text(self, prompt: str, kind: str, slots: int) -> str:
        """The prompt as the chat template has it; without one the placeholders of the pictures before it."""
        if self._template():
            content = [{"type": kind}] * slots + [{"type": "text", "text": prompt}]
            said = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        token = getattr(self.processor, f"{kind}_token", None) or (f"<{kind}>" if slots else "")
        return f"{token}" * slots + ("\n" if slots else "") + prompt

    def _template(self) -> Any:
        return getattr(self.processor, "chat_template", None)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)

    def _check_slots(self) -> None:
        who = f"`processor` of {self.name}"
        if getattr(self.processor, "image_processor", None) is None:
            raise ValueError(f"{who} is {type(self.processor).__name__}, which has no slot for pictures")
        if self.layout == "video":
            if getattr(self.processor, "video_processor", None) is None:
                raise ValueError(f"{who} has no video processor (or torchvision, which it needs, is missing); use "
                                 "`layout='images'`")  # fmt: skip
            return
        probe = np.full((2, 64, 64, 3), 128, np.uint8)
        try:
            one = self.prompt_length(probe[:1])
            two = self.prompt_length(probe) if self.layout == "images" else one + 1
        except Exception as error:  # of whatever kind a processor raises for what it can't take
            problem = " ".join(str(error).split())[:200]
            remedy = "several pictures; use `layout='grid'`" if self.layout == "images" else "a picture"
            raise ValueError(f"{who} does not take {remedy} ({problem})") from None
        if two <= one:
            raise ValueError(f"{who} takes one picture only; use `layout='grid'`, which puts all frames on one")

    def prompt_length(self, frames: Frames) -> int:
        """Tokens that frames make, or features, where the pictures are no tokens of the text."""
        return self._inputs("?", frames, None)["input_ids"].shape[1]


def load_vision_language(
    source: str | os.PathLike, layout: str = "images", device: str | None = None, dtype: str | None = None
) -> VisionLanguageModel:
    """From an embedded name, a folder or a Hub id.

    Args:
        device: None for a GPU where there is one. dtype: such as "bfloat16"; None for what the checkpoint says.

    Raises:
        ValueError: the processor can't be loaded here, another `dtype`, or as `VisionLanguageModel`.
    """
    from transformers import AutoModelForImageTextToText

    from wm_pipelines import hub
    from wm_pipelines.hub.stock import load_model

    check_layout(layout)
    folder = hub.resolve(source)
    processor = load_processor(folder, str(source), layout)
    kind = getattr(torch, dtype, None) if dtype else None
    if dtype and not isinstance(kind, torch.dtype):
        raise ValueError(f"`dtype` is {dtype!r}; it must be the name of a torch dtype, such as bfloat16")
    model = load_model(AutoModelForImageTextToText, folder, **({"dtype": kind} if dtype else {}))
    revision = hub.resolved_revision(folder)
    name = f"{source}@{revision[:12]}" if revision else os.path.basename(os.path.normpath(source))
    model = (model.to(device) if device else on_accelerator(model)).eval()
    found = VisionLanguageModel(model, processor, layout, name + (f", {dtype}" if dtype else ""))
    found.weights = _mark(folder)
    return found


def _mark(folder: Any) -> str:
    """Changes when the weights of a folder do: of each file its size and its first and last bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            found.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(MARKED))
            file.seek(max(0, path.stat().st_size - MARKED))
            found.update(file.read())
    return found.hexdigest()[:16]


def load_processor(folder: Any, source: str, layout: str) -> Any:
    """The processor of a folder; for pictures also where its video processor needs torchvision, which is missing.

    Raises:
        ValueError: it can't be loaded; names `layout="images"` where that would do.
    """
    from transformers import AutoProcessor

    from wm_pipelines.hub.stock import load_part

    try:
        return load_part(AutoProcessor, folder)
    except ImportError as error:
        if "orchvision" not in str(error):
            raise
        if layout == "video":
            raise ValueError(
                f"the video processor of {source} needs torchvision, which is not installed; use `layout='images'`"
            ) from None
        return _picture_processor(folder, source)


def _picture_processor(folder: Any, source: str) -> Any:
    """The processor without its video processor."""
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer

    from wm_pipelines.hub.checking import read_config
    from wm_pipelines.hub.stock import load_part
    from wm_pipelines.runtime.readers import read_text

    tokenizer, pictures = load_part(AutoTokenizer, folder), load_part(AutoImageProcessor, folder)
    files = (folder / f"{name}_config.json" for name in ("processor", "preprocessor", "tokenizer"))
    named = (read_config(file).get("processor_class") for file in files if file.is_file())
    kind = getattr(transformers, str(next((name for name in named if name), "")), None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.ProcessorMixin):
        raise ValueError(f"{source} does not say the class of its processor; its video processor needs torchvision")

    class WithoutVideos(kind):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> None:
            """transformers would want the video processor to be one."""

    file = folder / "chat_template.jinja"
    template = read_text(file) if file.is_file() else getattr(tokenizer, "chat_template", None)
    return WithoutVideos(image_processor=pictures, tokenizer=tokenizer, chat_template=template)


def _pictures(frames: Frames) -> list[Any]:
    from wm_pipelines.media.pictures import to_pil

    return [to_pil(frame) for frame in frames]
