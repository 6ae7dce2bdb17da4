"""Writes metrics to the terminal, to `metrics.jsonl` and to TensorBoard."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Metrics that depend on the machine and its load: an exact resume repeats all others.
TIMINGS = ('step_seconds', 'pairs_per_second', 'data_wait_share')


class Metrics:
    """The metrics of a run.

    Each line of `metrics.jsonl` is {'step': int, metric: number, ...}; a step with scores has a
    second line with metrics `eval/...`. The metrics in TIMINGS vary from run to run, all others
    are functions of the config.
    """

    def __init__(self, workdir: Path, step: int, num_steps: int, write: bool = True):
        """Args:
        workdir: the run's folder.
        step: the step that the run resumes from; later lines of an earlier attempt are dropped.
        num_steps: steps of the whole run.
        write: True on one process; the others write and print nothing.
        """
        self._write = write
        self._console = Console(stderr=True, quiet=not write)
        if write:
            # Imported late: where PyTorch is installed it imports that, which takes seconds.
            import tensorboardX

            self._path = workdir / 'metrics.jsonl'
            _drop_lines_after(self._path, step)
            # `purge_step` hides what an earlier attempt wrote after the resumed step.
            self._board = tensorboardX.SummaryWriter(
                str(workdir / 'tensorboard'), purge_step=step + 1 if step else None
            )
        self._progress = Progress(
            TextColumn('training'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[line]}'),
            TimeElapsedColumn(),
            TextColumn('ETA'),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not write or not self._console.is_terminal,
        )
        self._task = self._progress.add_task('', total=num_steps, completed=step, line='')
        self._num_steps, self._started, self._first = num_steps, time.monotonic(), step

    def __enter__(self) -> 'Metrics':
        self._progress.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._write:
            self._board.close()

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._progress.update(self._task, completed=step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step to the files and to the terminal."""
        if not self._write:
            return
        self.add(step, values)
        loss = f'loss {values["loss"]:.3f}' if 'loss' in values else 'no loss'
        line = f'{loss}  {values["pairs_per_second"]:.0f} pairs/s'
        line += f'  {values["skipped"]} skipped' if values.get('skipped') else ''
        self._progress.update(self._task, completed=step, line=line)
        if not self._console.is_terminal:
            spent = time.monotonic() - self._started
            left = spent / max(step - self._first, 1) * (self._num_steps - step)
            self.say(f'step {step}/{self._num_steps}  {line}  ETA {left:.0f} s')

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step to the files alone."""
        if not self._write:
            return
        with self._path.open('a', encoding='utf-8') as file:
            file.write(json.dumps({'step': step, **values}) + '\n')
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def read(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`; [] if there is no such file."""
    path = workdir / 'metrics.jsonl'
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def _drop_lines_after(path: Path, step: int) -> None:
    """Drops the lines after `step`, and a line that a killed run left half written."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            if json.loads(line)['step'] <= step:
                lines.append(line + '\n')
        except json.JSONDecodeError:
            break
    part = path.with_suffix('.part')
    part.write_text(''.join(lines), encoding='utf-8')
    part.replace(path)
