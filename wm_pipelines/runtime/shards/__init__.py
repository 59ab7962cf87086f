"""Work in shards that any number of workers share, that a kill can't harm and that is done once.

    plan = make_plan("pairs", divide(clips, 1000), root="clips", config={"frames": 6, "code": 1})
    run_stage(plan, EachFile(key_frames), "processes", workers=8)
    labels = make_plan("labels", divide(outputs(plan), 1), root="pairs", config={"model": "...", "revision": "..."})
    run_stage(labels, Labeller, "ray", workers=4, num_gpus=1)
    for row in plan_rows(labels): ...

`plan` what is to be done, `stages` how, `leases` who does it, `results` what is done, `work` a worker,
`processes` and `run` the executors; `wm_pipelines/runtime/ray.py` is that for Ray.
"""

from wm_pipelines.runtime.shards.plan import Plan, Shard, divide, make_plan, read_plan
from wm_pipelines.runtime.shards.results import Report, dead_letters, outputs, plan_rows
from wm_pipelines.runtime.shards.rows import read_rows
from wm_pipelines.runtime.shards.run import run_stage
from wm_pipelines.runtime.shards.stages import EachFile, Failed, Stage
from wm_pipelines.runtime.shards.work import TooManyFailures

__all__ = [
    "EachFile",
    "Failed",
    "Plan",
    "Report",
    "Shard",
    "Stage",
    "TooManyFailures",
    "dead_letters",
    "divide",
    "make_plan",
    "outputs",
    "plan_rows",
    "read_plan",
    "read_rows",
    "run_stage",
]
