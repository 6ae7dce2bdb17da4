"""The mesh: which shapes fit, where arrays live on it, how a batch is split over it."""

from typing import Any

import numpy as np
import pytest

from mural_jax.distributed.mesh import MeshShape, check_rules, choose_axes, make_global_batch
from mural_jax.types import UserError

SIZES = {'data': 1, 'fsdp': 4, 'tensor': 2}


def layer_axes(name: str, *shape: int) -> list:
    return choose_axes(f'towers/text/stack/blocks/{name}', shape, SIZES)


@pytest.mark.parametrize(
    ('name', 'shape', 'axes'),
    [
        ('attention/qkv/kernel', (12, 768, 3, 768), [None, 'fsdp', None, 'tensor']),
        ('attention/out/kernel', (12, 768, 768), [None, 'tensor', 'fsdp']),
        ('mlp/up/kernel', (12, 768, 3072), [None, 'fsdp', 'tensor']),
        ('mlp/down/kernel', (12, 3072, 768), [None, 'tensor', 'fsdp']),
        ('mlp_norm/scale', (12, 768), [None, None]),
    ],
)
def test_layers_are_split_by_heads_and_units(name: str, shape: tuple, axes: list) -> None:
    assert layer_axes(name, *shape) == axes


def test_dimension_that_an_axis_does_not_divide_stays_whole() -> None:
    assert layer_axes('mlp/up/kernel', 12, 770, 3071) == [None, None, None]
    assert choose_axes('towers/text/token_VD', (250001, 768), SIZES) == [None, 'fsdp']


def test_mesh_that_does_not_fit_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match='8 devices'):
        MeshShape(data=3).build()


def test_global_batch_is_split_over_the_devices() -> None:
    batch = make_global_batch({'x': np.arange(16)}, MeshShape().build())
    assert batch['x'].addressable_shards[3].data.tolist() == [6, 7]


@pytest.mark.parametrize('rule', [3, ('token_VD',), ('token_VD', 'fsdp'), ('heads/', ('model',))])
def test_rule_of_another_form_is_refused(rule: Any) -> None:
    with pytest.raises(UserError, match='config.sharding has.*example'):
        check_rules((rule,))
