"""Best of N by real metrics: what `dcgrid edit --candidates N --rank id,ct,tc` ranks with.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dcgrid.errors import UsageError, WeightsError
from dcgrid.eval.scoring import METRICS, Case, Encoders, score_case
from dcgrid.pipelines.candidates import Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRanker:
    """Measures tries with the metrics of evaluations."""

    keys: tuple[str, ...]
    """Metrics, the one that decides ties first."""
    encoders: Encoders
    """The networks they need."""

    def measure(
        self, given_THWC: Tensor, made_THWC: Tensor, text: str, fps: float
    ) -> Mapping[str, Measure]:
        """Measure a try; see `dcgrid.pipelines.candidates.Ranker`."""
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
        WeightsError: A metric's weights are not here.
    """
    can = [key for key, metric in METRICS.items() if metric.ranks]
    for key in keys:
        if key not in can:
            what = "needs more than a clip and a try" if key in METRICS else "is no metric"
            raise UsageError(f"--rank: {key!r} {what}", hint=f"metrics that rank: {', '.join(can)}")
    encoders = Encoders(weights_dir=weights_dir, device=device)
    for column in encoders.columns(tuple(keys)):
        if column.unavailable:
            raise WeightsError(
                f"--rank {column.key} cannot be measured: {column.unavailable}",
                hint="see `dcgrid eval metrics`; DCGRID_WEIGHTS names a folder of weights",
            )
    return MetricRanker(keys=tuple(keys), encoders=encoders)
