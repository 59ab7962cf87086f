"""WM_Doctor: what works here and what is in memory, as text."""

from comfy_api.latest import io

from ._shared.types import CATEGORY, aliases


class WM_Doctor(io.ComfyNode):
    """Reports versions, nodes, checkpoints and the pipelines that are still in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WM_Doctor",
            display_name="WM Doctor",
            category=CATEGORY,
            **aliases("install, check, problem"),
            description="Check the installation: versions, nodes, checkpoints and their hashes, pipelines in memory.",
            inputs=[
                io.Boolean.Input(
                    "verify",
                    default=True,
                    tooltip="Also compare every embedded checkpoint with its recorded hashes, which reads the files.",
                ),
            ],
            outputs=[io.String.Output("report", tooltip="The findings, one per line.")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, verify: bool) -> float:
        return float("nan")  # unequal to itself: a check of yesterday is no check

    @classmethod
    def execute(cls, verify: bool) -> io.NodeOutput:
        from wm_pipelines.hub.doctor import describe, doctor

        from . import load_nodes, version_mismatch
        from ._shared import folders, memory
        from ._shared.loading import FAILED

        mismatch, available = version_mismatch(), len(load_nodes())
        lines = [
            *([f"PROBLEM {mismatch}"] if mismatch else []),
            *(f"PROBLEM node {node_id}: {reason}" for node_id, reason in FAILED.items()),
            *describe(doctor(verify)),
            f"nodes: {available} of {available + len(FAILED)} available",
            f"models offered: {', '.join(folders.list_models(folders.model_roots())) or 'none'}",
            *(f"in memory: {line}" for line in memory.resident() or ["no pipeline"]),
        ]
        report = "\n".join(lines)
        return io.NodeOutput(report, ui={"text": (report,)})


NODES = (WM_Doctor,)
