"""Best of N by real metrics: what `dcgrid edit --candidates N --rank id,ct,tc` ranks with.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dcgrid.errors import UsageError, WeightsError
from dcgrid.eval.scoring import METRICS, Case, Encoders, score_case
from dcgrid.pipelines.ranking import Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRanker:
    """Measures tries with the metrics of evaluations."""

    keys: tuple[str, ...]
    """Metrics, the one that decides ties first; none: nothing asked for can be measured."""
    encoders: Encoders
    """The networks they need."""
    notes: tuple[str, ...] = ()
    """What was asked for and is left out, since it cannot be measured here."""

    def measure(
        self, given_THWC: Tensor, made_THWC: Tensor, text: str, fps: float
    ) -> Mapping[str, Measure]:
        """Measure a try; see `dcgrid.pipelines.ranking.Ranker`."""
        case = Case(source_THWC=given_THWC, result_THWC=made_THWC, prompt=text, fps=fps)
        scores = score_case(case, self.keys, self.encoders)
        return {
            key: Measure(
                label=METRICS[key].label,
                value=score.value,
                higher_is_better=METRICS[key].better == "higher",
                reason=score.reason,
            )
            for key, score in scores.items()
        }


def make_ranker(
    keys: Sequence[str], device: str, *, weights_dir: Path | None = None
) -> MetricRanker:
    """Return a ranker, its weights checked to be here before anything is generated.

    Args:
        keys: Metrics; each must have a better side and need nothing but clip, try and text.
        device: Where networks run.
        weights_dir: Folder with weights, looked in first.

    Raises:
        UsageError: There is no such metric, or it cannot rank.
        WeightsError: Weights of one are not here. A package of an extra that is not installed is
            no error: what needs it is left out, with a note.
    """
    can = [key for key, metric in METRICS.items() if metric.ranks]
    for key in keys:
        if key not in can:
            what = "needs more than a clip and a try" if key in METRICS else "is no metric"
            raise UsageError(f"--rank: {key!r} {what}", hint=f"metrics that rank: {', '.join(can)}")
    encoders = Encoders(weights_dir=weights_dir, device=device)
    columns = encoders.columns(tuple(keys))
    lacking = {column.key: column.unavailable for column in columns if column.unavailable}
    measured = tuple(key for key in keys if key not in lacking)
    for key, why in lacking.items():
        if not encoders.lacks_package(METRICS[key].slot):
            raise WeightsError(
                f"--rank {key} cannot be measured: {why}",
                hint="see `dcgrid eval metrics`; DCGRID_WEIGHTS names a folder of weights",
            )
    ranked_by = ", ".join(measured) or "edges and brightness, as without --rank"
    notes = tuple(
        f"Ranked by {ranked_by}: {key} cannot be measured here, {why}"
        for key, why in lacking.items()
    )
    return MetricRanker(keys=measured, encoders=encoders, notes=notes)
