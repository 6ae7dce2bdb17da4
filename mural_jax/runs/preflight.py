"""What has to be right before a run starts, on every process: checked at each start.

Each check gives a Finding in words; `require` stops the run at those that failed, `mural doctor`
prints them all.
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

from mural_jax.config.build import differences, plain
from mural_jax.distributed import processes
from mural_jax.types import UserError
from mural_jax.workdir.files import create_folder

PACKAGES = (
    'mural-jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-cpu',
    'tensorflow', 'libtpu',
)  # fmt: skip
NUM_CHECKPOINTS = 3  # that fit at least: two are kept while one is written


class Stream(Protocol):
    """What is asked of a stream; `data.streams.OpenStream` is one."""

    batch_size: int

    @property
    def mixture(self) -> Mapping[str, Any]: ...

    @property
    def pool(self) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found. advice: what to do, where it failed, or is worth a warning."""

    check: str
    said: str
    advice: str = ''
    fatal: bool = False


def require(findings: Sequence[Finding]) -> None:
    """Says the warnings. Raises UserError with all that failed."""
    failed = [f'{finding.said} {finding.advice}' for finding in findings if finding.fatal]
    if failed:
        raise UserError('\n'.join(failed))
    for finding in findings:
        if finding.advice:
            processes.say(f'warning: {finding.said} {finding.advice}')


def same_programs() -> list[Finding]:
    """Versions of Python and of the packages that compute."""
    versions = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return _same(
        'versions',
        versions,
        ', '.join(f'{name} {version}' for name, version in versions.items()),
        'Install the same versions everywhere: programs of two versions may not fit together.',
    )


def same_config(config: Mapping[str, Any]) -> list[Finding]:
    """The config itself, field by field."""
    return _same(
        'config', config, f'equal on {processes.count()} processes',
        'Start all processes with the same --config and the same overrides.',
    )  # fmt: skip


def same_data(streams: Mapping[str, Stream], vocabulary: str) -> list[Finding]:
    """Data and vocabulary; and each stream has at least one global batch."""
    found = {name: stream.mixture.get('data', '') for name, stream in streams.items()}
    said = ', '.join(f'{name} {fingerprint}' for name, fingerprint in found.items())
    findings = _same(
        'data', {**found, 'vocabulary': vocabulary}, f'{said}, vocabulary {vocabulary[:8]}',
        'Prepare the data once and give all processes that folder, or copies of it.',
    )  # fmt: skip
    for name, stream in streams.items():
        size = int(stream.pool.sizes.sum())
        if size < stream.batch_size:
            findings.append(Finding(
                'data', f'The stream {name} has {size:,} examples, fewer than its global batch of '
                f'{stream.batch_size:,}: an example would be its own negative.',
                f'Lower config.streams.{name}.batch_size, or add data.', fatal=True,
            ))  # fmt: skip
        else:
            said = f'{name}: {size:,} examples, {size // stream.batch_size:,} batches an epoch'
            findings.append(Finding('data', said))
    return findings


def same_devices() -> list[Finding]:
    """As many devices of one kind on every process."""
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    return _same(
        'devices', {'number': jax.local_device_count(), 'kinds': kinds},
        f'{jax.device_count()} of {", ".join(kinds)}, {jax.local_device_count()} on each of '
        f'{processes.count()} processes',
        'A step waits for its slowest device, and a batch is cut into equal parts: give each '
        'process the same.',
    )  # fmt: skip


def one_folder(workdir: Path, checkpoint_bytes: int) -> list[Finding]:
    """The workdir can be written by all, is one and the same for all, and has room.

    Creates it. Raises UserError where it cannot be written.
    """
    create_folder(workdir, '--workdir')
    token = workdir / f'.token-{processes.exchange("token", uuid.uuid4().hex)[0]}'
    if processes.is_first():
        token.touch()
    processes.exchange('token is there', True)
    seen = processes.exchange('token', token.exists())
    if processes.is_first():
        token.unlink()
    blind = [str(number) for number, found in enumerate(seen) if not found]
    if blind:
        return [Finding(
            'workdir', f'{workdir} of process {", ".join(blind)} is another folder than that of '
            'process 0: checkpoints are written by all into one.',
            'Give a --workdir on a file system that all hosts share.', fatal=True,
        )]  # fmt: skip
    free = shutil.disk_usage(workdir).free
    said = f'{workdir} can be written, {free / 1e9:.1f} GB are free'
    if free < NUM_CHECKPOINTS * checkpoint_bytes:
        return [Finding(
            'workdir', f'{said}, and a checkpoint takes {checkpoint_bytes / 1e9:.1f} GB.',
            f'Make room for {NUM_CHECKPOINTS} of them.',
        )]  # fmt: skip
    return [Finding('workdir', said)]


class Lock:
    """Held by the first process for as long as it trains in a workdir."""

    def __init__(self, workdir: Path):
        """Raises UserError where another process holds it."""
        self._file = None
        if not processes.is_first():
            return
        self._file = (workdir / 'lock').open('a+')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            who = self._file.read().strip()
            self._file.close()
            raise UserError(
                f'Another training runs in {workdir}{f" ({who})" if who else ""}; two would '
                'write over each other. Wait for it, stop it, or give another --workdir.'
            ) from error
        except OSError:
            return  # A file system without locks: nothing can be said.
        self._file.truncate(0)
        self._file.write(f'process {os.getpid()} on {platform.node()}')
        self._file.flush()

    def __enter__(self) -> 'Lock':
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file:
            self._file.close()


def collect(checks: Mapping[str, Callable[[], Sequence[Finding]]]) -> list[Finding]:
    """What all checks found; one that raises UserError has failed, and the others go on."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except UserError as error:
            findings.append(Finding(name, str(error), fatal=True))
    return findings


def _same(check: str, value: Mapping[str, Any], said: str, advice: str) -> list[Finding]:
    """One finding for each process whose value is another than that of process 0."""
    first, *others = [plain(found) for found in processes.exchange(check, value)]
    findings = [
        Finding(
            check, f'{check} of process {number} differ from those of process 0 '
            f'(there != here):\n  ' + '\n  '.join(lines) + '\n', advice, fatal=True,
        )
        for number, other in enumerate(others, 1)
        if (lines := differences(other, first))
    ]  # fmt: skip
    return findings or [Finding(check, said)]
