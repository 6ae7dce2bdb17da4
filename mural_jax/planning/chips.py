"""Published limits of accelerator chips, and devices of topologies that need not be attached."""

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
TOPOLOGY_EXAMPLES = 'v4:4x4x8, v5e:16x16, v5p:4x4x4, v6e:16x16, cpu:8 or gpu'


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates and memory of one chip; None where the vendor publishes no figure.

    flops: dense bfloat16 operations per second.
    memory: bytes a program may use. For TPUs this is the figure the compiler reports, 0.25 to
        0.75 GiB below the published one.
    traffic: bytes per second between the chip and that memory, reads and writes together.
    link: bytes per second that leave the chip over all its links to other chips. The links carry
        the same rate in the other direction at the same time.
    source: the publication of the figures.
    """

    flops: float | None
    memory: float | None
    traffic: float | None
    link: float | None
    source: str


# Keyed by `jax.Device.device_kind`. The source of each row is its last argument.
CHIPS = {
    # Six links of 50 GB/s.
    'TPU v4': Chip(275e12, 30.75 * GIB, 1200e9, 300e9, f'{CLOUD}v4; links: {JOUPPI}'),
    # Published as 400 GB/s for both directions together.
    'TPU v5 lite': Chip(197e12, 15.75 * GIB, 819e9, 200e9, f'{CLOUD}v5e'),
    # 1200 GB/s, both directions together.
    'TPU v5': Chip(459e12, 95.74 * GIB, 2765e9, 600e9, f'{CLOUD}v5p'),
    # 800 GB/s, both directions together.
    'TPU v6 lite': Chip(918e12, 31.25 * GIB, 1638e9, 400e9, f'{CLOUD}v6e'),
    # Half of NVLink's figure, which counts both directions; 32 GB/s is PCIe 4.0 x16 alone.
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
}


def find_chip(device: Any) -> Chip:
    """Returns the limits of a device's kind, with the memory that this device really offers.

    For a kind that is not in the table, only the memory may be known.
    """
    known = CHIPS.get(device.device_kind, Chip(None, None, None, None, 'not in the table'))
    if device.platform == 'cpu':
        # All CPU devices of one process share the machine's memory.
        total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
        return dataclasses.replace(known, memory=total / device.client.device_count())
    if device.platform == 'gpu':
        # XLA reserves only a part of the memory, three quarters by default.
        limit = (device.memory_stats() or {}).get('bytes_limit', known.memory)
        return dataclasses.replace(known, memory=limit)
    return known


def compute_peak_share(flops_per_second: float, device_kind: str) -> float | None:
    """Returns `flops_per_second` as a fraction of the kind's published bfloat16 peak.

    Returns None if no peak is known.
    """
    chip = CHIPS.get(device_kind)
    return flops_per_second / chip.flops if chip and chip.flops else None


def find_devices(topology: str) -> list[Any]:
    """Returns the devices of a topology such as 'v5e:16x16', 'cpu:8' or 'gpu'.

    Programs can be compiled for the devices of a TPU topology, but these hold no arrays. Raises
    UserError if the name is wrong, or if the machine lacks the GPUs or the compiler it needs.
    """
    kind, _, shape = topology.partition(':')
    if kind == 'cpu':
        return _find_cpus(topology, shape)
    if topology == 'gpu':
        if jax.default_backend() != 'gpu':
            raise UserError(
                f'--topology=gpu plans for the GPUs of this machine, but jax finds none (it runs '
                f"on {jax.default_backend()}). Install 'mural-jax[cuda]', or give another "
                f'topology, such as {TOPOLOGY_EXAMPLES}.'
            )
        return list(jax.devices())
    return _find_tpus(topology)


def _find_cpus(topology: str, shape: str) -> list[Any]:
    if not shape.isdigit() or not int(shape):
        raise UserError(f'--topology={topology} must say how many devices, such as cpu:8.')
    devices = jax.devices('cpu')
    if len(devices) < int(shape):
        raise UserError(
            f'--topology={topology}, but jax has {len(devices)} CPU devices in this process. '
            f'Set XLA_FLAGS=--xla_force_host_platform_device_count={shape} in the environment.'
        )
    return devices[: int(shape)]


def _find_tpus(topology: str) -> list[Any]:
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'--topology={topology} needs the TPU compiler libtpu (no TPU is needed). Install it '
            "with pip install 'mural-jax[tpu]'."
        )
    # By default the compiler makes each of the two TensorCores of a v4 chip a device; real programs
    # run with one device per chip ("megacore").
    options: dict[str, Any] = {'chip_config_name': 'megacore'} if topology[:3] == 'v4:' else {}
    # A single chip: the compiler otherwise assumes hosts of several chips and refuses the shape.
    if topology.count('x') == 1 and topology.endswith(':1x1'):
        options['chips_per_host_bounds'] = (1, 1, 1)
    try:
        devices = topologies.get_topology_desc(topology, platform='tpu', **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f'The TPU compiler does not know --topology={topology} ({reason}). Examples: '
            f'{TOPOLOGY_EXAMPLES}.'
        ) from error
    return list(devices)
