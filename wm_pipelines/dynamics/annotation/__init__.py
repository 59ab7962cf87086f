"""Triplets from unlabelled video at scale (arXiv 2506.06006, section 3.2): key frames by flow, labels by a dynamics
model, the best of each class.

    plan_annotation("videos", "out", model="dynamics", licence="CC-BY-4.0")
    run_annotation("out", "processes", workers=8)
    reduce_annotation("out", keep=7000)

`keyframes` which frames and pairs, `frames` the stage that finds them, `labels` the stage that says what happens,
`best` which labels are kept, `annotate` the three steps, `triplets` the reader that training has.
"""
