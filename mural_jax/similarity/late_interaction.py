"""Late interaction: tokens of both sides meet, and each takes its best partner."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.similarity.base import Head
from mural_jax.similarity.measures import unit_norm
from mural_jax.types import Array, Encoding, UserError

# TERAN's names, for images (left) against words (right), stand in brackets.
POOLINGS = {
    'max_left_sum_right': 'best left token of each right token, summed (MrSw)',
    'max_right_sum_left': 'best right token of each left token, summed (MwSr)',
    'symmetric': 'the sum of both (Symm)',
    'max_left_mean_right': 'best left token of each right token, averaged (MrAVGw)',
}


class TokenVectors(NamedTuple):
    """Unit vectors of the tokens of an example, and which of them are real."""

    token_BLD: Array
    mask_BL: Array


@dataclasses.dataclass(frozen=True)
class LateInteraction:
    """Sum over the tokens of one side of the best cosine among the tokens of the other.

        s = sum_w max_r v_r . w        (max_left_sum_right)

    Khattab and Zaharia 2020, arXiv:2004.12832; for regions and words TERAN, Messina et al. 2021,
    arXiv:2008.05231. Padded tokens never win a maximum and add nothing to a sum.

    pooling: One of POOLINGS. Raises UserError for another.
    """

    pooling: str = 'max_left_sum_right'
    form: ClassVar[str] = 'tokens'
    candidates: ClassVar[str] = 'cosine'

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise UserError(
                f'pooling={self.pooling!r} of a late interaction must be one of '
                f'{", ".join(POOLINGS)}.'
            )

    def represent(self, encoding: Encoding, head: Head) -> TokenVectors:
        """Every token projected by the head and brought to length 1."""
        return TokenVectors(unit_norm(head(encoding.tokens_BLD)), encoding.mask_BL)

    def score(self, left: TokenVectors, right: TokenVectors) -> Array:
        """float32 [Q, R]; one left example at a time, so memory is that of [R, L, M] cosines."""

        def score_one(one: TokenVectors) -> Array:
            cosine_RLM = jnp.einsum(
                'ld,rmd->rlm', one.token_BLD, right.token_BLD, precision=jax.lax.Precision.HIGHEST
            )
            return self._pool(cosine_RLM, one.mask_BL[None], right.mask_BL, jnp)

        # All pairs at once would take [Q, R, L, M].
        return jax.lax.map(score_one, left)

    def score_pairs(self, left: TokenVectors, right: TokenVectors) -> np.ndarray:
        """float64 [P]."""
        cosine_PLM = np.einsum(
            'pld,pmd->plm', left.token_BLD.astype(np.float64), right.token_BLD.astype(np.float64)
        )
        return self._pool(cosine_PLM, left.mask_BL, right.mask_BL, np)

    def _pool(self, cosine_BLM: Array, left_BL: Array, right_BM: Array, xp: object) -> Array:
        """Cosines of the tokens of B pairs -> scores [B]; `xp` is jax.numpy or numpy."""
        if self.pooling == 'max_right_sum_left':
            return _sum_best(cosine_BLM.swapaxes(1, 2), right_BM, left_BL, xp)
        score_B = _sum_best(cosine_BLM, left_BL, right_BM, xp)
        if self.pooling == 'symmetric':
            score_B += _sum_best(cosine_BLM.swapaxes(1, 2), right_BM, left_BL, xp)
        if self.pooling == 'max_left_mean_right':
            score_B /= xp.maximum(right_BM.sum(1), 1)  # type: ignore[attr-defined]
        return score_B

    def rounding(self, left: TokenVectors, right: TokenVectors) -> float:
        """Every summed maximum is rounded as one dot product of unit vectors is."""
        tokens = left.token_BLD.shape[1] + right.token_BLD.shape[1]
        return float(tokens * left.token_BLD.shape[2] ** 0.5 * 2.0**-22)


def _sum_best(cosine_BLM: Array, left_BL: Array, right_BM: Array, xp: object) -> Array:
    """Best real left token of each real right token, summed over the right ones, [B]."""
    best_BM = xp.where(left_BL[:, :, None], cosine_BLM, -xp.inf).max(1)  # type: ignore[attr-defined]
    # An example without tokens has no best one: it counts as unrelated, not as -inf.
    counts_BM = right_BM & left_BL.any(1)[:, None]
    return xp.where(counts_BM, best_BM, 0.0).sum(1)  # type: ignore[attr-defined]
