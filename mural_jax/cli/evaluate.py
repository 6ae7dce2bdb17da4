"""mural evaluate: scores checkpoints, models of other libraries, or embeddings from files."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mural_jax.cli import flags
from mural_jax.types import UserError

ALL_STEPS = 'all'  # Value of --step.
# What can be scored, by flag: (other flags it needs, other flags it allows). All allow --force and
# --data_dir.
SUBJECTS = {
    'workdir': ((), ('step', 'config', 'only')),
    'model': (('config', 'out'), ('only',)),
    'images': (('texts', 'out'), ('language',)),
}


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags; `choose_subject` says which go together."""
    text = 'Score a checkpoint and index its images, or score what other libraries embed.'
    parser = flags.add_verb(verbs, 'evaluate', run, text)
    _add_subjects(parser)
    # Not flags.add_step: this verb also takes all steps.
    parser.add_argument(
        '--step', help='Step of the checkpoint, or all for every checkpoint (default: the newest).'
    )
    parser.add_argument(
        '--config',
        metavar='FILE[:ARG]',
        help='Config whose evaluators and languages are used, such as evaluation:flores. '
        '--config.FIELD=VALUE overrides its fields (default: the config of the run).',
    )
    parser.add_argument(
        '--only',
        nargs='+',
        default=[],
        metavar='EVALUATOR',
        help='Names of the only evaluators to run (default: all).',
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='Score again even what was scored by the same protocol before.',
    )
    flags.add_data_dir(parser)


def _add_subjects(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('what is scored, one of --workdir, --model and --images')
    group.add_argument('--workdir', type=flags.user_path, help='Folder of the run.')
    group.add_argument(
        '--model',
        help='Model of another library: open_clip:NAME:PRETRAINED or transformers:FOLDER. Needs '
        '--config and --out.',
    )
    group.add_argument(
        '--images',
        type=flags.user_path,
        metavar='FILE',
        help='Embeddings of images: a .parquet table with the columns id and embedding, or a .npy '
        'array. Needs --texts and --out.',
    )
    group.add_argument(
        '--texts',
        type=flags.user_path,
        metavar='FILE',
        help='Embeddings of the texts of --images: a .parquet table with the columns id (of the '
        'image), language, embedding and optionally kind, or a .npy array with one row per image.',
    )
    # No default of 'en': choose_subject must see whether the user gave the flag.
    group.add_argument(
        '--language', default='', help='Language of the texts if --texts is an array (default: en).'
    )
    group.add_argument(
        '--out',
        type=flags.user_path,
        help='Folder for the scores of --model or of --images, which go to OUT/eval/0.json.',
    )


def run(arguments: argparse.Namespace) -> None:
    """Scores, writes the scores to a file, and prints them as a table."""
    # Flags that do not go together are refused before anything heavy is imported.
    subject = choose_subject(arguments)
    if arguments.overrides and not arguments.config:
        raise UserError(
            '--config.FIELD=VALUE needs --config: the config of the run itself cannot change.'
        )
    if subject == 'workdir':
        config = flags.load_config(arguments) if arguments.config else None
        for step in choose_steps(arguments.workdir, arguments.step):
            _evaluate_checkpoint(arguments, step, config)
        return
    from mural_jax.evaluation.external import scoring

    if subject == 'model':
        scoring.evaluate_model(
            arguments.model,
            flags.load_config(arguments),
            arguments.data_dir,
            arguments.out,
            arguments.only,
            arguments.force,
        )
    else:
        scoring.evaluate_files(
            arguments.images, arguments.texts, arguments.language, arguments.out, arguments.force
        )


def choose_subject(arguments: argparse.Namespace) -> str:
    """The key of SUBJECTS that the user gave.

    Raises UserError unless it is exactly one, with the flags it needs and no others.
    """
    given = [name for name in SUBJECTS if getattr(arguments, name)]
    if len(given) != 1:
        said = f'--{" and --".join(given)} are given' if given else 'none is given'
        raise UserError(
            'What is scored? Give one of --workdir=RUN, --model=NAME, or --images=FILE with '
            f'--texts=FILE; {said}.'
        )
    (subject,) = given
    needed, allowed = SUBJECTS[subject]
    missing = [name for name in needed if not getattr(arguments, name)]
    if missing:
        raise UserError(f'--{subject} needs --{" and --".join(missing)} too.')
    # Only flags that stand in SUBJECTS are checked: the others go with every subject.
    known = {name for pair in SUBJECTS.values() for names in pair for name in names}
    wrong = sorted(name for name in known - {*needed, *allowed} if getattr(arguments, name))
    if wrong:
        raise UserError(f'--{" and --".join(wrong)} do not go with --{subject}. Leave them out.')
    return subject


def choose_steps(workdir: Path, word: str | None) -> list[int | None]:
    """The steps that --step names, in order; [None] stands for the newest.

    Raises UserError if `word` is neither a number nor 'all', or 'all' finds no checkpoint.
    """
    if word is None:
        return [None]
    if word == ALL_STEPS:
        from mural_jax.workdir.reading import list_steps

        steps = sorted(list_steps(workdir / 'checkpoints'))
        if not steps:
            raise UserError(f'{workdir} has no checkpoint yet. Run `mural train` first.')
        return [*steps]
    if not word.isdigit():
        raise UserError(f"--step {word} must be a number, or 'all'.")
    return [int(word)]


def _evaluate_checkpoint(
    arguments: argparse.Namespace, step: int | None, config: dict[str, Any] | None
) -> None:
    """Scores one checkpoint: writes `eval/STEP.json` and the image index, prints a table.

    config: replaces the evaluators and languages of the run's config.
    """
    from rich.console import Console

    from mural_jax.config.build import lists_to_tuples
    from mural_jax.evaluation import scores
    from mural_jax.evaluation.report import tables
    from mural_jax.runs.image_index import write_run_index
    from mural_jax.runs.restore import restore, restored_split_data
    from mural_jax.runs.run import Run
    from mural_jax.workdir.files import read_config

    workdir = arguments.workdir
    restored = restore(workdir, step)
    config_run = restored.run
    if config:
        # The model and its data stay those of the run; only what is scored changes.
        replaced = {key: config[key] for key in ('evaluators', 'languages') if key in config}
        config_run = Run.of(lists_to_tuples(read_config(workdir)) | replaced)
    evaluators = _select_evaluators(config_run.evaluators, arguments.only)
    path = workdir / 'eval' / f'{restored.step}.json'
    scored, galleries = scores.score(
        evaluators,
        config_run.languages,
        restored_split_data(restored, arguments.data_dir),
        path,
        print,
        force=arguments.force,
    )
    if galleries and not config:  # `mural search` searches the images of the run itself.
        write_run_index(workdir, restored, galleries)
    print(f'step {restored.step}: {path}')
    tables.print_tables(scored, evaluators, config_run.languages, Console())


def _select_evaluators(evaluators: Mapping[str, Any], only: list[str]) -> dict[str, Any]:
    """The evaluators named in `only`, or all if it is empty. Raises UserError for unknown names."""
    from mural_jax.config.build import nearest

    for name in only:
        if name not in evaluators:
            raise UserError(
                f'--only {name}: there is no such evaluator.{nearest(name, evaluators)} There are '
                f'{", ".join(evaluators)}.'
            )
    return {name: one for name, one in evaluators.items() if name in (only or evaluators)}
