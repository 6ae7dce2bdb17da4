"""Config fields that may change when a run goes on from a checkpoint.

A field says so in its type: `microbatches: Annotated[int, MEANS]`. All others must stay.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MayChange:
    """Why a field may differ from that of the checkpoint."""

    effect: str


MIXTURE = MayChange('sources and languages are drawn in other proportions')
MEANS = MayChange('the same is computed, stored, scored or reported in another way')
