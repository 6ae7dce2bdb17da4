"""What may differ between a config and the run that it continues."""

import re
from pathlib import Path

from mural_jax.config.build import differences, plain
from mural_jax.config.load import Config
from mural_jax.distributed import processes
from mural_jax.types import UserError
from mural_jax.workdir.files import read_config

# What may change in a run: the order of its streams goes on from where it is.
MIXTURE = re.compile(r'streams\.\w+\.(alpha|cap|sources\.\w+\.weight): ')


# And how the same is computed, kept, scored and told: on other devices, in other parts.
MEANS = re.compile(
    r'(mesh|safety|schedule\.best)\.\w+: |(sharding|microbatches|safety|mesh|schedule\.best): |'
    r'tasks\.\w+\.objective\.(by|tile): |model\.towers\.\w+\.(layers\.)?(remat|unroll): |'
    r'model\.attention: |optimizer\.offload: |'
    r'schedule\.(log_every|checkpoint_every|checkpoint_minutes|keep): |'
    r'evaluators\.[^:]+: |languages\.\w+: '
)


def check_changes(workdir: Path, config: Config) -> None:
    """Raises UserError where the workdir belongs to another config; writes nothing.

    How often sources and languages are drawn may change, and how it is computed; that is said.
    """
    if not (workdir / 'config.json').exists():
        return
    lines = differences(plain(read_config(workdir)), config)
    mixed = [line for line in lines if MIXTURE.match(line)]
    if lines and all(MIXTURE.match(line) or MEANS.match(line) for line in lines):
        what = 'another mixture' if mixed else 'the same in another way'
        processes.say(f'{what} from the newest checkpoint on (there != here):')
        processes.say('  ' + '\n  '.join(lines))
    elif lines:
        raise UserError(
            f'{workdir} belongs to a run of another config. It differs in (there != here):\n  '
            + '\n  '.join(lines)
            + '\nGive another --workdir, or the config of that run. Nothing was changed.'
        )
