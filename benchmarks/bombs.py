"""What small files that ask for much cost: input bytes, peak memory, time, and what is said.

    python benchmarks/bombs.py          # prints the table, rewrites results/bombs.jsonl; status 1 if a bound is broken

Each file is read in a process of its own; memory and time are counted from the moment before it is read. Bounds: 1 GB
and 10 s of processor time.
"""

import argparse
import json
import os
import resource
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import records

from wm_pipelines.hub import EMBEDDED_ROOT

MOST_BYTES, MOST_SECONDS = 10**9, 10.0
Bomb = tuple[str, Callable[[Path], Path], Callable[[Path], Any]]


def bombs() -> list[Bomb]:
    """(name, what makes the file in a folder, what reads it); a new bomb is one more entry."""
    from transformers import CLIPTextModel

    from wm_pipelines.adapters.kronecker import load_adapter
    from wm_pipelines.evaluation.mcq.extract import extract_answer
    from wm_pipelines.evaluation.mcq.sheets import read_sheet
    from wm_pipelines.graph_transformer.parsing import text_graph
    from wm_pipelines.graph_transformer.tables import Table
    from wm_pipelines.hub.stock import load_model
    from wm_pipelines.media.pictures import load_image
    from wm_pipelines.media.video import iter_video, read_video
    from wm_pipelines.mojito.trajectories.reading import load_trajectory
    from wm_pipelines.runtime import readers
    from wm_pipelines.runtime.readers import read_text
    from wm_pipelines.runtime.tensors import read_tensors
    from wm_pipelines.training.recipe import load_recipe

    def adapter(path: Path) -> Any:
        return load_adapter(_tiny(), path)

    def ati(path: Path) -> Any:
        return load_trajectory(path, "ati", num_frames=8, phrases=["a"], size=(0.1, 0.1), canvas=(100, 100))

    def freetraj(path: Path) -> Any:
        return load_trajectory(path, "freetraj", num_frames=8, phrases=["a"])

    def reply(path: Path) -> Any:
        return extract_answer(read_text(path), {"A": "left", "B": "right"})

    config = EMBEDDED_ROOT / "diorama-sd" / "text_encoder"
    return [
        ("PNG of 13,000 x 13,000", _png(13_000), load_image),
        ("PNG of 8,000 x 8,000, which is read", _png(8_000), load_image),
        ("mp4 of 200 frames of 1,920 x 1,080", _video, read_video),
        ("the same, its first frame", _video, lambda path: next(iter(iter_video(path)))),
        ("ATI archive that unpacks to 1 GB", _ati, ati),
        (".npy that promises 8 TB", _npy, readers.read_array),
        ("safetensors header of 99 MB", _header, read_tensors),
        ("text encoder of 20,000 layers", _layers(config, 20_000), lambda path: load_model(CLIPTextModel, path)),
        ("adapter of 10**7 terms", _adapter(terms=10**7), adapter),
        ("adapter with a pattern (a+)+$", _adapter(target_modules="(.*.*)+(a+)+$"), adapter),
        ("adapter with .*.*.*.*.*.*x", _adapter(target_modules=".*" * 12 + "x"), adapter),
        ("JSON of 10**6 levels", _text("[" * 10**6 + "]" * 10**6), readers.read_json),
        ("JSON with a number of 10**6 digits", _text("9" * 10**6), readers.read_json),
        ("YAML of ten billion laughs", _text(_laughs()), load_recipe),
        (".xlsx of 20,000 cells far to the right", _wide, read_sheet),
        (".xlsx of 3,000,000 empty cells", _empty, read_sheet),
        ("reply of 30,000 blanks", _text("the answer is" + " " * 30_000 + "!"), reply),
        ("text of 30,000 words for a graph", _text("red cube " * 15_000), lambda path: text_graph(read_text(path))),
        (
            "table of 3,000 rows for a graph",
            _text("name,age\n" + "Ann,7\n" * 3000),
            lambda path: Table.from_csv(path).graph(),
        ),
        ("FreeTraj line with 10**6 digits", _text("0, 0.1, 0.2, 0.1, " + "9" * 10**6 + "x"), freetraj),
        ("CSV with one value of 50 MB", _text('a\n"' + "x" * 50_000_000), lambda path: readers.read_csv(path, ["a"])),
    ]


def measure(make: Callable[[Path], Path], read: Callable[[Path], Any], work: Path) -> dict[str, Any]:
    """What reading one file costs, in a child."""
    path = make(work)
    size = sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
        before, began = _peak(), resource.getrusage(resource.RUSAGE_SELF)
        said = "read"
        try:
            read(path)
        except (ValueError, OSError) as error:
            said = f"{type(error).__name__}: {error}".replace(str(work), "")[:300]
        except BaseException as error:
            said = f"FAULT {type(error).__name__}: {error}"[:300]
        ended = resource.getrusage(resource.RUSAGE_SELF)
        spent = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
        row = {"bytes": size, "peak_bytes": _peak() - before, "seconds": round(spent, 3), "said": said}
        os.write(send, json.dumps(row).encode())
        os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    data = os.read(receive, 65536)
    os.close(receive)
    return json.loads(data) if data else {"bytes": size, "peak_bytes": None, "seconds": None, "said": "FAULT: it died"}


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _png(side: int) -> Callable[[Path], Path]:
    def make(work: Path) -> Path:
        def chunk(name: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        pack = zlib.compressobj(9)
        line = b"\0" + b"\0" * (3 * side)
        body = b"".join(pack.compress(line) for _ in range(side)) + pack.flush()
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = work / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
        return path

    return make


def _video(work: Path) -> Path:
    import av

    path = work / "bomb.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "51"}
        frame = av.VideoFrame.from_ndarray(np.zeros((1080, 1920, 3), np.uint8), format="rgb24")
        for number in range(200):
            frame.pts = number * 5
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _ati(work: Path) -> Path:
    import zipfile

    path = work / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as file:
        for _ in range(1000):
            file.write(b"\0" * 2**20)
    return path


def _npy(work: Path) -> Path:
    path = work / "bomb.npy"
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    return path


def _header(work: Path) -> Path:
    path = work / "bomb.safetensors"
    entry = b'"%07d": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
    head = b"{" + b", ".join(entry % n for n in range(1_500_000)) + b"}"
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    return path


def _layers(source: Path, layers: int) -> Callable[[Path], Path]:
    def make(work: Path) -> Path:
        for path in source.iterdir():
            (work / path.name).write_bytes(path.read_bytes())
        values = json.loads((work / "config.json").read_text())
        (work / "config.json").write_text(json.dumps({**values, "num_hidden_layers": layers}))
        return work

    return make


def _tiny() -> Any:
    from torch import nn

    layers = {f"block_{'a' * 40}_{n}": nn.ModuleDict({"q_proj": nn.Linear(8, 8)}) for n in range(50)}
    return nn.ModuleDict(layers)


def _adapter(**changes: Any) -> Callable[[Path], Path]:
    def make(work: Path) -> Path:
        import torch
        from safetensors.torch import save_file

        values = {"peft_type": "KRONECKER", "n": 2, "r": 1, "target_modules": ["q_proj"], **changes}
        (work / "adapter_config.json").write_text(json.dumps(values))
        save_file({"a": torch.ones(1)}, work / "adapter_model.safetensors")
        return work

    return make


def _text(content: str) -> Callable[[Path], Path]:
    def make(work: Path) -> Path:
        path = work / "bomb.txt"
        path.write_text(content)
        return path

    return make


def _wide(work: Path) -> Path:
    return _sheet(work, "".join(f'<row><c r="XFD{n}"><v>1</v></c></row>' for n in range(1, 20_001)))


def _empty(work: Path) -> Path:
    return _sheet(work, f"<row>{'<c/>' * 3000}</row>" * 1000)


def _sheet(work: Path, rows: str) -> Path:
    import zipfile

    path = work / "bomb.xlsx"
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f'<worksheet xmlns="{space}">{rows}</worksheet>')
    return path


def _laughs() -> str:
    lines = ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11))]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| input | bytes | peak, MB | seconds | what is said |", "|---|---|---|---|---|"]
    for row in rows:
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        said = row["said"][:110].replace("|", "\\|")
        lines.append(f"| {row['input']} | {row['bytes']:,} | {peak} | {row['seconds']} | {said} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="bombs whose names hold this")
    parser.add_argument("--out", type=Path, default=records.RESULTS / "bombs.jsonl")
    args = parser.parse_args(arguments)
    rows = []
    for name, make, read in bombs():
        if args.only in name:
            with tempfile.TemporaryDirectory() as work:
                rows.append({"input": name} | measure(make, read, Path(work)))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    records.write(args.out, [row | records.environment() for row in rows])
    broken = [
        row for row in rows
        if row["said"].startswith("FAULT") or row["peak_bytes"] > MOST_BYTES or row["seconds"] > MOST_SECONDS
    ]  # fmt: skip
    print(table(rows), *(f"BROKEN: {row['input']}" for row in broken), sep="\n")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
