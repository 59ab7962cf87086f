"""`Scene4D`: Gaussians that move, the cameras that saw them, and what their objects are called."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians, PosedGaussians, check_tensor
from wm_pipelines.morpho4d.grammar import parse_instruction
from wm_pipelines.morpho4d.heads import FeatureHead
from wm_pipelines.morpho4d.layers import HALF, Layer, evaluate
from wm_pipelines.morpho4d.motion import Motion
from wm_pipelines.morpho4d.operations import Duplicate, Target, as_json, read_operations
from wm_pipelines.morpho4d.rendering import RenderedScene, render_posed
from wm_pipelines.morpho4d.selection import Selection, TextQuery, by_text, select
from wm_pipelines.morpho4d.storage import load, save
from wm_pipelines.record import Record

Parser = Callable[[str, "Scene4D"], list[Record]]


@dataclass
class Scene4D:
    """A scene in time.

    Args:
        gaussians: N of them.
        motion: of those that are dynamic, in their order; None where nothing moves.
        cameras: over the scene's T frames.
        frames: T.
        fps: frames a second.
        names: object id -> what it is called.
        background: (red, green, blue) in [0, 1] where nothing is.
        dilation: what was added to the 2-D covariance while it was fitted, square pixels.
        up: the world's axis that points up, "z" or "-y".
        unit: of lengths, "m" where depth was metric, else "unknown".
        concepts: object id -> (F,), what features say of it; 0 for the background. Empty where they say nothing.
        layers: the edits, first to last; `gaussians` and `motion` stay as they were fitted.
        heads: name of a teacher -> what makes its features of the scene's.

    Example:
        >>> scene = Scene4D.from_pretrained(embedded("morpho4d"))
        >>> sorted(scene.names.values())
        ['blue sphere', 'green cone', 'red cube']
        >>> scene.edit("remove the red cube").render(0, [0, 1.5]).frames.shape
        torch.Size([2, 3, 64, 64])
    """

    gaussians: Gaussians
    motion: Motion | None
    cameras: Cameras
    frames: int
    fps: float = 8.0
    names: dict[int, str] = field(default_factory=dict)
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dilation: float = 0.3
    up: str = "z"
    unit: str = "m"
    concepts: dict[int, torch.Tensor] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    heads: dict[str, FeatureHead] = field(default_factory=dict)

    def __len__(self) -> int:
        """Gaussians, with those that edits have added."""
        return len(self.gaussians) + sum(len(layer.copied) for layer in self.layers)

    @property
    def times(self) -> list[float]:
        """Seconds of each frame."""
        return [t / self.fps for t in range(self.frames)]

    def at(self, time: float) -> PosedGaussians:
        """The Gaussians as they stand at `time` in frames, which may lie between two and is clamped at both ends."""
        return evaluate(self.gaussians, self._pose, self.layers, time, self.frames)

    def _pose(self, rows: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """World means (n, 3) and quaternions (n, 4) of stored Gaussians, each at a time of its own (n,)."""
        g = self.gaussians
        means, quats = g.means[rows], g.quats[rows]
        moving = g.is_dynamic[rows].nonzero().squeeze(1)
        if self.motion is None or not len(moving):
            return means, quats
        number = (g.is_dynamic.cumsum(0) - 1)[rows[moving]]
        moved = self.motion.pose(number, means[moving], quats[moving], times[moving])
        return means.index_copy(0, moving, moved[0]), quats.index_copy(0, moving, moved[1])

    def render(
        self,
        camera: int | tuple[torch.Tensor, torch.Tensor] = 0,
        times: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        backend: str = "auto",
    ) -> RenderedScene:
        """Plays the scene.

        Args:
            camera: number of one of the scene's own, or (K, T_cw): (3, 3) in pixels, and world to camera (4, 4), or
                (T', 4, 4) for a camera that moves.
            times: T' times in frames; None: every frame.
            size: (height, width); None: that of the scene's cameras. Another one scales the intrinsics of the scene's
                own cameras; a K that is given is taken as it is.
            backend: "auto", "torch", "triton" or "gsplat".

        Raises:
            ValueError: no such camera, shapes or numbers that do not fit, or an unusable backend.
        """
        times = [float(t) for t in (range(self.frames) if times is None else times)]
        if not times or not all(map(math.isfinite, times)):
            raise ValueError(f"`times` is {times}; give one finite time or more")
        k, poses, size = self._camera(camera, times, size)
        with torch.no_grad():
            shown = [
                render_posed(self.at(t), k, pose, size, self.background, self.dilation, backend)
                for t, pose in zip(times, poses, strict=True)
            ]
        return RenderedScene.stack(shown)

    def _camera(self, camera, times: list[float], size) -> tuple[torch.Tensor, Sequence[torch.Tensor], tuple]:
        own = self.cameras
        size = own.size if size is None else tuple(size)
        if len(size) != 2 or not all(isinstance(s, int) and 1 <= s <= 16384 for s in size):
            raise ValueError(f"`size` is {size!r}; (height, width) in whole pixels, 1 to 16384")
        if isinstance(camera, int):
            if not 0 <= camera < len(own):
                raise ValueError(f"`camera` is {camera}; the scene has cameras 0 to {len(own) - 1}")
            scale = torch.tensor([size[1] / own.size[1], size[0] / own.size[0], 1.0])
            return own.K[camera] * scale[:, None], [own.at(camera, t)[1] for t in times], size
        if not isinstance(camera, tuple | list) or len(camera) != 2:
            raise ValueError(
                f"`camera` is {camera!r:.80}; 0 to {len(own) - 1} for one of the scene's, or (K, T_cw): (3, 3) in "
                "pixels and world to camera (4, 4)"
            )
        k, pose = camera
        k, pose = torch.as_tensor(k, dtype=torch.float32), torch.as_tensor(pose, dtype=torch.float32)
        pose = pose.expand(len(times), 4, 4) if pose.dim() == 2 else pose
        if k.shape != (3, 3) or pose.shape != (len(times), 4, 4):
            raise ValueError(
                f"`camera` is of K {tuple(k.shape)} and T_cw {tuple(pose.shape)}; it must be (3, 3), and (4, 4) or "
                f"({len(times)}, 4, 4) for these times"
            )
        return k, pose, size

    @property
    def edits(self) -> list[dict]:
        """The log: of each edit the operation as JSON's values, the words it came from, and how many it chose."""
        return [
            {"operation": as_json(layer.op), "said": layer.said, "chosen": int((layer.mask >= HALF).sum())}
            for layer in self.layers
        ]

    def undo(self, count: int = 1) -> "Scene4D":
        """The scene without its last `count` edits, exactly as it was.

        Raises:
            ValueError: there are fewer.
        """
        if not 0 <= count <= len(self.layers):
            raise ValueError(f"`count` is {count}; the scene has {len(self.layers)} edits")
        return replace(self, layers=self.layers[: len(self.layers) - count], names=self._names_before(count))

    def _names_before(self, count: int) -> dict[int, str]:
        added = {new for layer in self.layers[len(self.layers) - count :] for new in (layer.object_ids or {}).values()}
        return {i: name for i, name in self.names.items() if i not in added}

    def select(self, target: Target | str, vote: bool = True, text: TextQuery | None = None) -> Selection:
        """Chooses Gaussians, by words or as `Target` says.

        Args:
            vote: an object is chosen as a whole or not at all; without, each Gaussian by its own features.
            text: words are looked up in features; None: in names.

        Raises:
            ValueError: nothing is chosen, which names what there is; or the scene has no head of that name.
        """
        target = Target(query=target) if isinstance(target, str) else target
        if text is not None and text.head not in self.heads:
            known = ", ".join(self.heads) or "none"
            raise ValueError(f"`text` asks for the head {text.head!r}; the scene has {known}")
        if target.point is not None:
            target = Target(object_id=self._object_at(target))
        posed, found = self.at(target.time), None
        if text is not None and target.query is not None:
            head, floor = self.heads[text.head], self.concepts.get(0)
            floor = None if floor is None else head(floor)
            found = by_text(head(posed.features), target.query, text, floor)
        return select(posed, self.names, target, self.concepts, vote, found)

    def _object_at(self, target: Target) -> int:
        ids = self.render(target.view, [target.time]).object_ids[0]
        column, row = (math.floor(v) for v in target.point)
        if not (0 <= row < ids.shape[0] and 0 <= column < ids.shape[1]):
            raise ValueError(f"`point` is {target.point}; the picture is {ids.shape[1]} wide and {ids.shape[0]} high")
        return int(ids[row, column])

    def edit(
        self,
        what: str | dict | Record | Sequence[dict | Record],
        said: str = "",
        parser: Parser | None = None,
        text: TextQuery | None = None,
    ) -> "Scene4D":
        """The scene with one edit or several on top; this one stays as it is.

        Args:
            what: an English command, an operation or a list of them (`operations.py`), as records or JSON's values.
            said: the words that operations came from, for the log.
            parser: what makes operations of a command; None: the grammar (`grammar.py`).
            text: as in `select`.

        Raises:
            ValueError: a command that no rule reads, an operation that is none, or one that is about nothing.
        """
        if parser is not None and not callable(parser):
            raise ValueError(f"`parser` is {parser!r:.80}; a function of a command and a scene")
        if isinstance(what, str):
            what, said = parser(what, self) if parser else parse_instruction(what, self.fps), what
        if not isinstance(what, dict | Record | list | tuple):
            raise ValueError(f"`what` is {what!r:.80}; a command, an operation or a list of operations")
        operations = [what] if isinstance(what, dict | Record) else list(what)
        plain = [as_json(op) if isinstance(op, Record) else op for op in operations]
        scene = self
        for op in read_operations(plain):
            scene = scene._with(op, said, text)
        return scene

    def _with(self, op: Record, said: str, text: TextQuery | None) -> "Scene4D":
        if op.target is None:
            mask = torch.ones(len(self))
        else:
            chosen = self.select(op.target, text=text)
            mask = chosen.mask
        if getattr(op, "direction", None) is not None:
            by = self._towards(op.direction) * op.amount
            op = op.model_copy(update={"by": tuple(by.tolist()), "direction": None, "amount": None})
        names, copies = self.names, None
        if isinstance(op, Duplicate):
            fresh = max([0, *self.names, *self.gaussians.object_id.tolist()])
            copies = {old: fresh + n for n, old in enumerate(chosen.object_ids, 1)}
            names = names | {new: f"{names.get(old, 'background')} copy" for old, new in copies.items()}
        layer = Layer(op, mask, said, copies)
        return replace(self, layers=(*self.layers, layer), names=names)

    def _towards(self, direction: str) -> torch.Tensor:
        """A unit vector (3,) of the world: along the ground, as the first camera sees it at frame 0, or upright."""
        up = torch.tensor([0.0, 0.0, 1.0] if self.up == "z" else [0.0, -1.0, 0.0])
        if direction in ("up", "down"):
            return up if direction == "up" else -up
        turn = self.cameras.T_cw[0, 0, :3, :3]
        right = turn[0] - up * (turn[0] @ up)
        right = right / right.norm()
        ahead = torch.linalg.cross(up, right)
        return {"right": right, "left": -right, "away": ahead, "towards": -ahead}[direction]

    def check(self) -> None:
        """Raises ValueError where the parts are not as the class says, or do not fit each other."""
        self.gaussians.check()
        self.cameras.check(self.frames)
        moving = int(self.gaussians.is_dynamic.sum())
        if self.motion is None and moving:
            raise ValueError(f"`motion` is None, but {moving} of the Gaussians are dynamic")
        for i, concept in self.concepts.items():
            check_tensor(f"concepts.{i}", concept, (self.gaussians.features.shape[1],), torch.float32)
        for name, head in self.heads.items():
            if head.inputs != self.gaussians.features.shape[1]:
                raise ValueError(
                    f"`heads.{name}` takes {head.inputs} features; the scene has {self.gaussians.features.shape[1]}"
                )
        self._check_layers()
        if self.motion is not None:
            self.motion.check()
            if self.motion.count != moving or self.motion.frames != self.frames:
                raise ValueError(
                    f"`motion` is of {self.motion.count} Gaussians over {self.motion.frames} frames; "
                    f"{moving} are dynamic, over {self.frames}"
                )

    def _check_layers(self) -> None:
        count = len(self.gaussians)
        for n, layer in enumerate(self.layers):
            check_tensor(f"layers.{n}.mask", layer.mask, (count,), torch.float32)
            if count and not 0 <= float(layer.mask.min()) <= float(layer.mask.max()) <= 1:
                raise ValueError(f"`layers.{n}.mask` is not in [0, 1]")
            count += len(layer.copied)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `scene4d.safetensors`, `config.json` and the record `wm_config.json`, all or none.

        Raises:
            ValueError: the scene is not whole, or `folder` is a file.
        """
        self.check()
        save(self, folder)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, verify: bool = True) -> "Scene4D":
        """A scene from a folder, a Hub id or an embedded name.

        Args:
            verify: compare the files with their recorded hashes first.

        Raises:
            ValueError: a file is missing, altered or truncated, or says something that does not fit; names it.
        """
        scene = cls(**load(source, verify))
        try:
            scene.check()
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        return scene
