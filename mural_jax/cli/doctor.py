"""mural doctor: checks everything that a run needs before it starts."""

import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mural_jax.config.load import Config
from mural_jax.distributed import processes
from mural_jax.runs import preflight
from mural_jax.runs.changes import check_changes
from mural_jax.runs.run import Run
from mural_jax.runs.start import _open, _timed
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import bytes_of


def doctor(config: Config, workdir: Path, data_dir: Path) -> None:
    """Prints what `train` checks before it starts. Raises UserError where something failed."""
    processes.join()
    processes.end_together(lambda: _doctor(config, workdir, data_dir))


def _doctor(config: Config, workdir: Path, data_dir: Path) -> None:
    existed = workdir.exists()

    def data() -> list[preflight.Finding]:
        run = Run.of(config)
        tokenizer, streams = _open(run, workdir, data_dir)
        _timed(run, data_dir)
        return preflight.same_data(streams, tokenizer.hash)

    def folder() -> list[preflight.Finding]:
        run = Run.of(config)
        graphdef, params, statistics = run.build_model(run.tokenizer.vocab_size, abstract=True)
        trainer = run.build_trainer(graphdef, params)
        check_changes(workdir, config)
        found = preflight.one_folder(workdir, bytes_of(trainer.abstract(params, statistics)))
        with preflight.Lock(workdir):
            return found

    findings = preflight.collect({
        'versions': preflight.same_programs, 'config': lambda: preflight.same_config(config),
        'devices': preflight.same_devices, 'data': data, 'workdir': folder,
    })  # fmt: skip
    if processes.is_first():
        if not existed and workdir.exists():
            shutil.rmtree(workdir)
        Console().print(_findings(findings))
    failed = [finding.check for finding in findings if finding.fatal]
    if failed:
        raise UserError(
            f'Not ready: {", ".join(dict.fromkeys(failed))}. The table says what to do.'
        )


def _findings(findings: list[preflight.Finding]) -> Table:
    table = Table(title='before a run starts')
    for name in ('check', 'result', 'found', 'what to do'):
        table.add_column(name)
    for finding in findings:
        result = 'failed' if finding.fatal else 'warning' if finding.advice else 'ok'
        table.add_row(finding.check, result, finding.said.strip(), finding.advice)
    return table
