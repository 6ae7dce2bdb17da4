"""mural export: gives a trained model to other tools."""

import argparse

from mural_jax.cli import flags

# The names in `exports.catalog` and `exports.native`, whose modules take seconds to import.
FORMATS = ('safetensors', 'stablehlo', 'onnx', 'savedmodel', 'transformers', 'open_clip')
DTYPES = ('float32', 'bfloat16', 'float16', 'int8')
WRONG_EXPORT = 1  # Exit code.


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Export a trained model to the formats of other tools.'
    parser = flags.add_verb(verbs, 'export', run, text)
    flags.add_workdir(parser)
    flags.add_step(parser)
    parser.add_argument(
        '--format',
        required=True,
        choices=FORMATS,
        help='Format of the export; docs/export.md describes them.',
    )
    parser.add_argument(
        '--out',
        type=flags.user_path,
        required=True,
        help='New or empty folder that takes the export.',
    )
    parser.add_argument(
        '--dtype',
        default='float32',
        choices=DTYPES,
        help='Type in which the weights are stored (default: float32).',
    )
    parser.add_argument(
        '--tower', choices=['image', 'text'], help='The only tower to export (default: all).'
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the folder --out, whole or not at all, and prints how exact it is.

    Returns 1 if the export does not give the embeddings of the trainer; it is then removed.
    """
    from mural_jax.exports.parity import Mismatch
    from mural_jax.exports.writer import export_checkpoint

    try:
        step, agreements = export_checkpoint(
            arguments.workdir,
            arguments.step,
            arguments.format,
            arguments.out,
            arguments.dtype,
            arguments.tower,
        )
    except Mismatch as error:
        print(f'mural: the export was removed: {error}.')
        return WRONG_EXPORT
    for agreement in agreements:
        print(
            f'{agreement.tower}: cosine with the trainer of {agreement.examples} examples at least '
            f'{agreement.lowest:.6f}, mean {agreement.mean:.6f}'
        )
    print(f'step {step} is exported to {arguments.out}')
    return 0
