"""The report as a picture: its table, and each term over time (our design)."""

import io

import numpy as np
from PIL import Image

from wm_pipelines.morpho4d.physics.report import PhysicsReport


def report_picture(report: PhysicsReport) -> Image.Image:
    """A table of the terms beside their curves, a line for each body, thresholds dashed; 1000 pixels wide."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = len(report.terms)
    figure, axes = pyplot.subplots(
        count, 2, figsize=(10, 1.2 * count + 1), sharex="col", layout="constrained", squeeze=False
    )
    grid = axes[0, 0].get_gridspec()
    for ax in axes[:, 0]:
        ax.remove()
    table = figure.add_subplot(grid[:, 0])
    table.axis("off")
    table.text(0, 1, "\n".join(_wrapped(report)), va="top", family="monospace", fontsize=10)
    for ax, (name, term) in zip(axes[:, 1], report.terms.items(), strict=True):
        whose = report.objects if len(term.values) == len(report.objects) else ["all"]
        for label, values in zip(whose, term.values, strict=True):
            ax.plot(np.arange(term.values.shape[1]), values, marker=".", linewidth=0.9, label=label)
        ax.set_ylabel(name, color="black" if term.holds else "red", fontsize="small")
        ax.axhline(term.threshold, color="0.4", linestyle="--", linewidth=0.8)
    axes[0, 1].legend(fontsize="x-small")
    axes[-1, 1].set_xlabel("frame")
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100)
        pyplot.close(figure)
        file.seek(0)
        return Image.open(file).convert("RGB")


def _wrapped(report: PhysicsReport) -> list[str]:
    lines = [f"{'term':<12}{'score':>7}{'valid <':>9}"]
    for name, term in report.terms.items():
        lines.append(f"{name:<12}{term.score:>7.3f}{term.threshold:>9.3f}  {'' if term.holds else 'VIOLATED'}")
    lines += [f"{name:<12}{'not measured':>16}" for name in report.unmeasured]
    lines.append("")
    for name, c in report.constants.items():
        said = "not shown" if c is None else f"{c.value:.3g} [{c.low:.3g}, {c.high:.3g}]"
        lines.append(f"{name:<12} {said}")
    return [*lines, "", f"overall {report.score:.2f} (valid < 1)", "" if report.holds else f"worst: {report.worst}"]
