"""The process of `mural VERB ...`: memory, unneeded libraries and the way it exits."""

import atexit
import os
import sys

from mural_jax.cli.parser import main


def run() -> None:
    """Runs the console script `mural`."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ''
    if verb in ('train', 'evaluate'):
        _use_huge_pages()
    # TensorFlow imports keras and tensorboardX imports torch where these are installed. That takes
    # seconds and serves nothing here. Only exports need keras, for tensorflow-text.
    blocked = {'train': ('keras', 'torch'), 'export': ()}
    for library in blocked.get(verb, ('keras',)):
        sys.modules[library] = None  # type: ignore[assignment]
    codes: list[int] = []
    atexit.register(_exit_at_once, codes)
    codes.append(main(sys.argv[1:]))
    sys.exit(codes[0])


def _exit_at_once(codes: list[int]) -> None:
    """Ends the process with the verb's exit code before Python tears down its interpreter.

    Threads of tf.data run Python functions. A thread that asks for the interpreter during the
    teardown aborts the process, although its work is done. This function is registered first and
    therefore runs last, after all other exit handlers.

    codes: holds the exit code once `main` has returned, and is empty if it raised.
    """
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


def _use_huge_pages() -> None:
    """Restarts the process with memory in huge pages, unless the user tunes glibc already.

    A step allocates and frees gigabytes: with small pages this took a fifth of its time on a CPU.
    Machines with accelerators copy faster from huge pages, too.
    """
    # glibc reads the variable only when a process starts.
    if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
        os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
        # Repeat the original command: with `-m mural_jax` instead, files in the current folder
        # could hide modules.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == '__main__':
    run()
