"""What one chip can do, as published, and the chips of a pod that nobody has to hold."""

import dataclasses
import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies

from mural_jax.types import UserError

GIB = 2**30
CLOUD = 'https://docs.cloud.google.com/tpu/docs/'
JOUPPI = 'Jouppi et al. 2023, arXiv:2304.01433'
NVIDIA = 'NVIDIA data sheet'
EXAMPLES = 'v4:4x4x8, v5e:16x16, v5p:4x4x4, v6e:16x16, cpu:8 or gpu'


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip, None where nobody publishes one.

    flops: bfloat16 operations a second, dense. memory: bytes that a program may use; of TPUs what
    the compiler says is available, 0.25 to 0.75 GiB under what is published. traffic: bytes a
    second to and from that memory. link: bytes a second that leave the chip over all its links to
    other chips, one direction; as much comes in at the same time.
    """

    flops: float | None
    memory: float | None
    traffic: float | None
    link: float | None
    source: str


# By `device_kind`.
CHIPS = {
    # Six links of 50 GB/s.
    'TPU v4': Chip(275e12, 30.75 * GIB, 1200e9, 300e9, f'{CLOUD}v4; links: {JOUPPI}'),
    # 400 GB/s, both directions together.
    'TPU v5 lite': Chip(197e12, 15.75 * GIB, 819e9, 200e9, f'{CLOUD}v5e'),
    # 1200 GB/s, both directions together.
    'TPU v5': Chip(459e12, 95.74 * GIB, 2765e9, 600e9, f'{CLOUD}v5p'),
    # 800 GB/s, both directions together.
    'TPU v6 lite': Chip(918e12, 31.25 * GIB, 1638e9, 400e9, f'{CLOUD}v6e'),
    # Half of what NVLink has in both directions; 32 GB/s where PCIe 4.0 x16 is all there is.
    'NVIDIA A100-SXM4-40GB': Chip(312e12, 40 * GIB, 1555e9, 300e9, f'{NVIDIA}, A100'),
    'NVIDIA A100-SXM4-80GB': Chip(312e12, 80 * GIB, 2039e9, 300e9, f'{NVIDIA}, A100'),
    'NVIDIA A100 80GB PCIe': Chip(312e12, 80 * GIB, 1935e9, 32e9, f'{NVIDIA}, A100'),
    'NVIDIA H100 80GB HBM3': Chip(989e12, 80 * GIB, 3350e9, 450e9, f'{NVIDIA}, H100 SXM'),
    'NVIDIA H100 PCIe': Chip(756e12, 80 * GIB, 2000e9, 64e9, f'{NVIDIA}, H100 PCIe'),
    'NVIDIA H200': Chip(989e12, 141e9, 4800e9, 450e9, f'{NVIDIA}, H200'),
    'NVIDIA B200': Chip(2250e12, 180e9, 8000e9, 900e9, f'{NVIDIA}, DGX B200, an eighth of it'),
    'NVIDIA L4': Chip(121e12, 24 * GIB, 300e9, 32e9, f'{NVIDIA}, L4, without sparsity'),
    'NVIDIA L40S': Chip(362e12, 48 * GIB, 864e9, 32e9, f'{NVIDIA}, L40S, without sparsity'),
    'NVIDIA A10': Chip(125e12, 24 * GIB, 600e9, 32e9, f'{NVIDIA}, A10'),
    'NVIDIA GeForce RTX 4090': Chip(165.2e12, 24 * GIB, 1008e9, 32e9, 'NVIDIA Ada white paper'),
}  # fmt: skip


def chip_of(device: Any) -> Chip:
    """What the device's kind can do; of an unknown kind only what the device says itself."""
    known = CHIPS.get(device.device_kind, Chip(None, None, None, None, 'not in the table'))
    if device.platform == 'cpu':
        whole = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
        return dataclasses.replace(known, memory=whole / device.client.device_count())
    if device.platform == 'gpu':
        # What XLA reserves, three quarters where nobody says otherwise.
        limit = (device.memory_stats() or {}).get('bytes_limit', known.memory)
        return dataclasses.replace(known, memory=limit)
    return known


def share_of_peak(flops_per_second: float, device_kind: str) -> float | None:
    """The part of a chip's published bfloat16 peak, None where none is known."""
    chip = CHIPS.get(device_kind)
    return flops_per_second / chip.flops if chip and chip.flops else None


def devices_of(topology: str) -> list[Any]:
    """The devices of a topology such as 'v5e:16x16', 'cpu:8' or 'gpu'.

    Those of a TPU pod can be compiled for and hold no arrays. Raises UserError where the name is
    wrong or what it needs is missing.
    """
    kind, _, shape = topology.partition(':')
    if kind == 'cpu':
        return _cpus(topology, shape)
    if topology == 'gpu':
        if jax.default_backend() != 'gpu':
            raise UserError(
                f'--topology=gpu plans for the GPUs of this machine, and jax finds none (it runs '
                f"on {jax.default_backend()}). Install 'mural-jax[cuda]', or give another, such "
                f'as {EXAMPLES}.'
            )
        return list(jax.devices())
    return _tpus(topology)


def _cpus(topology: str, shape: str) -> list[Any]:
    if not shape.isdigit() or not int(shape):
        raise UserError(f'--topology={topology} must say how many, such as cpu:8.')
    found = jax.devices('cpu')
    if len(found) < int(shape):
        raise UserError(
            f'--topology={topology}, but jax has {len(found)} CPU devices in this process. '
            f'Set XLA_FLAGS=--xla_force_host_platform_device_count={shape} before it starts.'
        )
    return found[: int(shape)]


def _tpus(topology: str) -> list[Any]:
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={topology} needs the TPU compiler, libtpu, but no TPU. Install it with '
            "pip install 'mural-jax[tpu]'."
        )
    # One device a chip: by default v4 has two, its TensorCores, which real programs use as one.
    options: dict[str, Any] = {'chip_config_name': 'megacore'} if topology[:3] == 'v4:' else {}
    if topology.count('x') == 1 and topology.endswith(':1x1'):
        options['chips_per_host_bounds'] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(topology, platform='tpu', **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f'--topology={topology} is not one that the TPU compiler knows ({said}). Examples: '
            f'{EXAMPLES}.'
        ) from error
    return list(found)
