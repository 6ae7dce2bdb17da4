"""Checks on every process before a run starts: each start runs them, `mural doctor` prints them.

Each check returns findings. `require_passed` ends a start whose checks failed.
"""

import dataclasses
import fcntl
import importlib.metadata
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from mural_jax.config.build import list_differences, lists_to_tuples
from mural_jax.distributed import processes
from mural_jax.distributed.mesh import MeshShape, describe_mesh
from mural_jax.types import UserError
from mural_jax.workdir.files import create_folder

PACKAGES = (
    'mural-jax',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'tensorflow-cpu',
    'tensorflow',
    'libtpu',
)
MIN_CHECKPOINTS = 3  # The workdir has room for two while a third is written.


class CheckedStream(Protocol):
    """The parts of an open stream that `check_data` reads."""

    batch_size: int

    @property
    def mixture(self) -> Mapping[str, Any]: ...

    @property
    def pool(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check.

    check: name of the check. message: what the check found. advice: what the user should do, empty
    if all is well. fatal: the run cannot start.
    """

    check: str
    message: str
    advice: str = ''
    fatal: bool = False


def require_passed(findings: Sequence[Finding]) -> None:
    """Prints the warnings. Raises UserError with the messages of all failed checks."""
    failed = [f'{finding.message} {finding.advice}' for finding in findings if finding.fatal]
    if failed:
        raise UserError('\n'.join(failed))
    # Only now: a start that fails should show nothing but its failures.
    for finding in findings:
        if finding.advice:
            processes.say(f'warning: {finding.message} {finding.advice}')


def check_versions() -> list[Finding]:
    """Whether all processes have the same Python and the same packages that compute."""
    versions = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # Which of these packages are installed depends on the platform.
            continue
    return _compare_processes(
        'versions',
        versions,
        ', '.join(f'{name} {version}' for name, version in versions.items()),
        'Install the same versions everywhere: programs of two versions may not fit together.',
    )


def check_config(config: Mapping[str, Any]) -> list[Finding]:
    """Whether all processes have the same config."""
    return _compare_processes(
        'config',
        config,
        f'equal on {processes.count()} processes',
        'Start all processes with the same --config and the same overrides.',
    )


def check_data(streams: Mapping[str, CheckedStream], vocabulary: str) -> list[Finding]:
    """Whether all processes have the same data, and each stream fills a global batch.

    vocabulary: its fingerprint.
    """
    # The fingerprint of a stream covers the records of all its sources.
    fingerprints = {name: stream.mixture.get('data', '') for name, stream in streams.items()}
    message = ', '.join(f'{name} {fingerprint}' for name, fingerprint in fingerprints.items())
    findings = _compare_processes(
        'data',
        {**fingerprints, 'vocabulary': vocabulary},
        f'{message}, vocabulary {vocabulary[:8]}',
        'Prepare the data once and give all processes that folder, or copies of it.',
    )
    for name, stream in streams.items():
        # A batch larger than the data would draw some examples twice.
        size = int(stream.pool.sizes.sum())
        if size < stream.batch_size:
            findings.append(
                Finding(
                    'data',
                    f'The stream {name} has {size:,} examples, fewer than its global batch of '
                    f'{stream.batch_size:,}: an example would be its own negative.',
                    f'Lower config.streams.{name}.batch_size, or add data.',
                    fatal=True,
                )
            )
        else:
            batches = size // stream.batch_size
            findings.append(
                Finding('data', f'{name}: {size:,} examples, {batches:,} batches per epoch')
            )
    return findings


def check_devices(shape: MeshShape) -> list[Finding]:
    """Whether all processes have the same devices; then what the mesh does with them.

    Raises UserError if a mesh of this shape does not fit them.
    """
    # Sets have no order, and the lists of processes are compared.
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    findings = _compare_processes(
        'devices',
        {'number': jax.local_device_count(), 'kinds': kinds},
        ', '.join(kinds),
        'A step waits for its slowest device, and a batch is cut into equal parts: give each '
        'process the same.',
    )
    if any(finding.fatal for finding in findings):
        return findings
    found = f'{describe_mesh(shape.build())}; {", ".join(kinds)}; {processes.count_cpus()} CPUs'
    return [Finding('devices', found)]


def check_workdir(workdir: Path, checkpoint_bytes: int) -> list[Finding]:
    """Whether all processes can write the same workdir, and it has room for checkpoints.

    Creates the workdir. Raises UserError if this process cannot write in it.
    """
    create_folder(workdir, '--workdir')
    # Equal paths may name different disks: only a file that all processes see tells.
    token = workdir / f'.token-{processes.exchange("token", uuid.uuid4().hex)[0]}'
    if processes.is_first():
        token.touch()
    # An exchange returns when all processes called it, so no process looks too early.
    processes.exchange('token is there', True)
    seen = processes.exchange('token', token.exists())
    if processes.is_first():
        token.unlink()
    blind = [str(number) for number, exists in enumerate(seen) if not exists]
    if blind:
        return [
            Finding(
                'workdir',
                f'{workdir} of process {", ".join(blind)} is another folder than that of '
                'process 0, but all processes write their parts of a checkpoint into one folder.',
                'Give a --workdir on a file system that all machines share.',
                fatal=True,
            )
        ]
    free = shutil.disk_usage(workdir).free
    message = f'{workdir} can be written, {free / 1e9:.1f} GB are free'
    if free < MIN_CHECKPOINTS * checkpoint_bytes:
        # Only a warning: other files may be deleted while the run trains.
        return [
            Finding(
                'workdir',
                f'{message}, and a checkpoint takes {checkpoint_bytes / 1e9:.1f} GB.',
                f'Make room for {MIN_CHECKPOINTS} of them.',
            )
        ]
    return [Finding('workdir', message)]


class WorkdirLock:
    """A context in which the first process alone may train in a workdir."""

    def __init__(self, workdir: Path):
        """Takes the lock. Raises UserError if another run holds it."""
        self._file = None
        if not processes.is_first():
            return
        # 'a+' keeps what the holder of the lock wrote about itself.
        self._file = (workdir / 'lock').open('a+')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise UserError(
                f'Another training runs in {workdir}{f" ({holder})" if holder else ""}; two would '
                'write over each other. Wait for it, stop it, or give another --workdir.'
            ) from error
        except OSError:
            return  # The file system has no locks, so nothing can be checked.
        self._file.truncate(0)
        self._file.write(f'process {os.getpid()} on {platform.node()}')
        self._file.flush()

    def __enter__(self) -> 'WorkdirLock':
        return self

    def __exit__(self, *_: Any) -> None:
        # Closing the file releases the lock, as the end of the process would.
        if self._file:
            self._file.close()


def collect_findings(checks: Mapping[str, Callable[[], Sequence[Finding]]]) -> list[Finding]:
    """The findings of all checks. A check that raises UserError failed; the others still run."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except UserError as error:
            findings.append(Finding(name, str(error), fatal=True))
    return findings


def _compare_processes(
    check: str, value: Mapping[str, Any], message: str, advice: str
) -> list[Finding]:
    """One failure for each process whose value differs from that of process 0.

    Every process must call this with the same `check`. message: of the finding if all are equal.
    """
    # Values travel as JSON, which has lists in place of tuples.
    first, *others = [lists_to_tuples(own) for own in processes.exchange(check, value)]
    findings = [
        Finding(
            check,
            f'{check} of process {number} differ from those of process 0 '
            f'(left: process {number}, right: process 0):\n  ' + '\n  '.join(lines) + '\n',
            advice,
            fatal=True,
        )
        for number, other in enumerate(others, 1)
        if (lines := list_differences(other, first))
    ]
    return findings or [Finding(check, message)]
