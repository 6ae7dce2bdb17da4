"""Work of compiled programs, read from their HLO text."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mural_jax.planning.collectives import count_group
from mural_jax.planning.compilation import MemoryRefusal, parse_refusal
from mural_jax.planning.hlo import parse_module
from mural_jax.planning.program import Work, measure_work


@pytest.fixture(scope='module')
def looped_sum() -> Work:
    """A sum over eight devices in each of five turns of a loop, and one gathering after them."""
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec('data'))

    def program(x: jax.Array) -> jax.Array:
        def add_sum(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            total = jax.lax.psum(jnp.sin(x), 'data')
            return x + total, None

        x, _ = jax.lax.scan(add_sum, x, None, length=5)
        return jax.lax.all_gather(x, 'data')

    sharded = jax.shard_map(
        program,
        mesh=mesh,
        in_specs=PartitionSpec('data'),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    x = jax.ShapeDtypeStruct((8 * 16,), jnp.float32, sharding=sharding)
    return measure_work(jax.jit(sharded).lower(x).compile().as_text())


def test_collectives_inside_a_loop_count_each_turn(looped_sum: Work) -> None:
    assert looped_sum.collectives['all-reduce'].count == 5
    assert looped_sum.collectives['all-reduce'].bytes == 5 * 16 * 4
    assert looped_sum.unknown_loops == 0


def test_collectives_outside_the_loop_count_once(looped_sum: Work) -> None:
    assert looped_sum.collectives['all-gather'].count == 1


def test_program_has_memory_traffic(looped_sum: Work) -> None:
    assert looped_sum.traffic > 0


@pytest.mark.parametrize(
    ('attributes', 'count'),
    [
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
        ('replica_groups={{0,1},{2,3}}, to_apply=%add', 2),
        ('replica_groups=[2,4]<=[8]', 4),
        ('to_apply=%add', 0),
    ],
)
def test_group_size_is_read_from_each_notation(attributes: str, count: int) -> None:
    assert count_group(attributes) == count


@pytest.mark.parametrize(
    ('shape', 'size', 'hbm_bytes'),
    [
        ('f32[16,4]{1,0}', 256, 256),
        # Tiles of 8 x 128 pad 3 x 5 numbers to 1,024.
        ('bf16[3,5]{1,0:T(8,128)}', 2048, 2048),
        # Memory space 1 is on the chip.
        ('s8[32]{0:S(1)}', 32, 0),
        ('(f32[2]{0}, pred[3]{0})', 11, 11),
    ],
)
def test_size_of_a_shape_counts_padding_and_memory_space(
    shape: str, size: int, hbm_bytes: int
) -> None:
    computations, entry = parse_module(
        f'ENTRY %main (x: f32[]) -> f32[] {{\n  %y = {shape} f()\n}}'
    )
    instruction = computations[entry]['y']
    assert (instruction.size, instruction.hbm_bytes) == (size, hbm_bytes)


@pytest.mark.parametrize(
    ('message', 'refusal'),
    [
        ('Used 20.5G of 15.48G hbm', MemoryRefusal(20.5 * 2**30, False)),
        ('temporaries (46.00M) exceeds', MemoryRefusal(46 * 2**20, True)),
        ('no figure', MemoryRefusal(0.0, False)),
    ],
)
def test_memory_need_is_read_from_a_refusal(message: str, refusal: MemoryRefusal) -> None:
    assert parse_refusal(message) == refusal
