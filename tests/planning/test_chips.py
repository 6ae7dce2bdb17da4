"""The table of chips, and the names of topologies."""

import pytest

from mural_jax.planning import chips
from mural_jax.types import UserError


def test_peak_share_uses_the_published_peak() -> None:
    assert chips.compute_peak_share(98.5e12, 'TPU v5 lite') == pytest.approx(0.5)


def test_peak_share_of_an_unknown_chip_is_none() -> None:
    assert chips.compute_peak_share(1e12, 'a chip of tomorrow') is None


@pytest.mark.parametrize('kind', chips.CHIPS)
def test_chip_has_a_source_and_plausible_figures(kind: str) -> None:
    chip = chips.CHIPS[kind]
    assert chip.source and chip.flops > 1e14 / 2 and chip.memory > 1e10


def test_topology_without_a_count_is_refused() -> None:
    with pytest.raises(UserError, match='such as cpu:8'):
        chips.find_devices('cpu:x')
