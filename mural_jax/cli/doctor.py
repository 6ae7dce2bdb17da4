"""mural doctor: checks everything that a run needs before it starts."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from mural_jax.runs.preflight import Finding


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Check everything that a run needs before it starts.'
    parser = flags.add_verb(verbs, 'doctor', run, text)
    flags.add_config(parser)
    flags.add_workdir(parser)
    flags.add_data_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Prints what `mural train` checks before it starts. Raises UserError if a check failed.

    Every process of a run may call this together, as with `mural train`.
    """
    config = flags.load_config(arguments)
    from mural_jax.distributed import processes

    processes.join()
    processes.end_together(lambda: _report_checks(config, arguments.workdir, arguments.data_dir))


def _report_checks(config: dict[str, Any], workdir: Path, data_dir: Path) -> None:
    from rich.console import Console

    from mural_jax.distributed import processes

    workdir_existed = workdir.exists()
    findings = _check_run(config, workdir, data_dir)
    if processes.is_first():
        # The check of the workdir creates it; a doctor leaves nothing behind.
        if not workdir_existed and workdir.exists():
            shutil.rmtree(workdir)
        Console().print(_build_table(findings))
    failed = [finding.check for finding in findings if finding.fatal]
    if failed:
        raise UserError(
            f'Not ready: {", ".join(dict.fromkeys(failed))}. The table says what to do.'
        )


def _check_run(config: dict[str, Any], workdir: Path, data_dir: Path) -> 'list[Finding]':
    from mural_jax.runs import preflight
    from mural_jax.runs.changes import check_changes
    from mural_jax.runs.run import Run
    from mural_jax.runs.start import find_validators, open_streams
    from mural_jax.workdir.checkpoints import count_bytes

    # Each check builds the run anew: a config that is wrong fails both, with the same message.
    def check_data() -> 'list[Finding]':
        config_run = Run.of(config)
        tokenizer, streams = open_streams(config_run, workdir, data_dir)
        # Raises UserError if an evaluator that scores during training lacks its data.
        find_validators(config_run, data_dir)
        return preflight.check_data(streams, tokenizer.hash)

    def check_workdir() -> 'list[Finding]':
        config_run = Run.of(config)
        # Shapes are enough to know how much room a checkpoint takes.
        graphdef, params, statistics = config_run.build_model(
            config_run.tokenizer.vocab_size, abstract=True
        )
        # All stages, because each checks its own batches.
        trainer = config_run.build_programs(graphdef, params)[0].trainer
        check_changes(workdir, config)
        size = count_bytes(trainer.abstract_state(params, statistics))
        findings = preflight.check_workdir(workdir, size)
        # Released at once: the doctor only finds out whether a run holds the lock.
        with preflight.WorkdirLock(workdir):
            return findings

    return preflight.collect_findings(
        {
            'versions': preflight.check_versions,
            'config': lambda: preflight.check_config(config),
            'devices': lambda: preflight.check_devices(Run.of(config).mesh),
            'data': check_data,
            'workdir': check_workdir,
        }
    )


def _build_table(findings: 'Sequence[Finding]') -> 'Table':
    from rich.table import Table

    table = Table(title='before a run starts')
    for name in ('check', 'result', 'found', 'what to do'):
        table.add_column(name)
    for finding in findings:
        result = 'failed' if finding.fatal else 'warning' if finding.advice else 'ok'
        table.add_row(finding.check, result, finding.message.strip(), finding.advice)
    return table
