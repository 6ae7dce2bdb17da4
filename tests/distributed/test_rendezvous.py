"""Which GPUs each task of a Slurm step uses, from the variables that Slurm sets."""

import pytest

from mural_jax.distributed.processes import join
from mural_jax.distributed.rendezvous import choose_slurm_devices, count_granted
from mural_jax.types import UserError


def describe_task(tasks: str, gpus: int = 0, visible: str = '', **more: str) -> dict[str, str]:
    """The variables of a task of a step: its tasks per node, and the GPUs of the node."""
    said = {'SLURM_STEP_NODELIST': 'a[1-2]', 'SLURM_STEP_TASKS_PER_NODE': tasks, **more}
    said |= {'SLURM_GPUS_ON_NODE': str(gpus)} if gpus else {}
    return said | ({'CUDA_VISIBLE_DEVICES': visible} if visible else {})


ALL = '0,1,2,3,4,5,6,7'


@pytest.mark.parametrize(
    ('environment', 'devices', 'granted'),
    [
        pytest.param(describe_task('1(x2)', 8, ALL), None, 8, id='one task a node has all'),
        pytest.param(
            describe_task('8(x2)', 8, ALL, SLURM_LOCALID='3'), [3], 1, id='a task for each GPU'
        ),
        pytest.param(
            describe_task('2(x2)', 8, ALL, SLURM_LOCALID='1'), [4, 5, 6, 7], 4, id='halves'
        ),
        pytest.param(
            describe_task('8(x2)', 8, '5', SLURM_LOCALID='5'), None, 1, id='each sees its own'
        ),
        pytest.param(
            describe_task('4,1', 4, '0,1,2,3', SLURM_NODEID='1'), None, 4, id='nodes differ'
        ),
        pytest.param(describe_task('2', SLURM_LOCALID='1'), [1], 0, id='GPUs are not managed'),
        pytest.param(describe_task('1'), None, 0, id='a node without GPUs'),
    ],
)
def test_tasks_share_the_gpus_of_their_node(
    environment: dict[str, str], devices: list[int] | None, granted: int
) -> None:
    assert choose_slurm_devices(environment) == devices
    assert count_granted(environment) == granted


def test_shares_that_are_not_equal_are_refused() -> None:
    with pytest.raises(UserError, match='3 tasks on this node cannot share its 8 GPUs'):
        choose_slurm_devices(describe_task('3', 8, ALL))


def test_granted_gpus_that_jax_does_not_see_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on the CPU of a node with GPUs would look like a very slow success."""
    for name, value in describe_task('1', 9, f'{ALL},8', SLURM_NTASKS='1').items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr('mural_jax.distributed.processes.read_world', lambda *_: None)
    with pytest.raises(UserError, match='Slurm granted 9 GPUs .* jax sees 8 devices of kind cpu'):
        join()


def test_without_slurm_nothing_is_granted() -> None:
    assert count_granted({'CUDA_VISIBLE_DEVICES': ALL}) == 0
