"""What the process behind `commands.run_forked` imports before it forks."""

import sys

# As `mural train` does: TensorFlow would import both.
sys.modules['keras'] = sys.modules['torch'] = None  # type: ignore[assignment]

import mural_jax.cli.parser  # noqa: E402, F401
import mural_jax.data.fitted.catalog  # noqa: E402, F401
import mural_jax.evaluation.report.tables  # noqa: E402, F401
import mural_jax.runs.image_index  # noqa: E402, F401
import mural_jax.runs.prepare  # noqa: E402, F401
import mural_jax.runs.restore  # noqa: E402, F401
import mural_jax.runs.start  # noqa: E402, F401
