"""The page in a browser: nothing is asked of the network, nothing is wrong, dark and light."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from evaluation.galleries import run
from evaluation.test_report import EIGHT, looked
from PIL import Image

from mural_jax.evaluation.report import page as report

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium; apt-get install it')
DARK, LIGHT = 0, 1  # of --blink-settings=preferredColorScheme


def browser(page: Path, tmp_path: Path, *more: str) -> str:
    """What chromium logs of a page."""
    assert CHROMIUM
    done = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
         f'--user-data-dir={tmp_path / "profile"}', '--enable-logging=stderr', '--v=0',
         '--host-resolver-rules=MAP * ~NOTFOUND', *more, page.as_uri()],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def screenshot(page: Path, tmp_path: Path, scheme: int, width: int = 1100) -> np.ndarray:
    """float64 [H, W, 3] in [0, 255]. Fails where the console has a message."""
    out = tmp_path / f'shot{scheme}.png'
    log = browser(page, tmp_path, f'--window-size={width},1600', f'--screenshot={out}',
                  f'--blink-settings=preferredColorScheme={scheme}')  # fmt: skip
    assert not re.findall(r'CONSOLE.*|.*Failed to load.*|.*net::ERR.*', log)
    with Image.open(out) as picture:
        return np.asarray(picture.convert('RGB'), np.float64)


def page_of(groups: dict[str, Sequence[str]], path: Path, evaluators: int = 1) -> Path:
    runs = [run('first', groups, 0.3, evaluators), run('second', groups, 0.5, evaluators)]
    report.write(path, runs, looked(groups, 2))
    assert path.stat().st_size < 5e6
    return path


def test_light_and_dark(tmp_path: Path) -> None:
    page = page_of(EIGHT, tmp_path / 'page.html')
    light, dark = (screenshot(page, tmp_path, scheme) for scheme in (LIGHT, DARK))
    assert np.median(light) > 245 and np.median(dark) < 40
    # Curves and letters stand out from the ground in both.
    assert light.min() < 60 and dark.max() > 200


def test_a_telephone_does_not_scroll_sideways(tmp_path: Path) -> None:
    """The page asks nothing wider than the window: a script that the test adds says how wide."""
    page = page_of(EIGHT, tmp_path / 'page.html')
    measure = (
        '<iframe id=f width=390 height=800 src="page.html"></iframe><script>onload = () => '
        'document.title = "wide " + f.contentDocument.documentElement.scrollWidth</script>'
    )
    page.with_name('frame.html').write_text(measure, encoding='utf-8')
    dom = browser(page.with_name('frame.html'), tmp_path, '--dump-dom',
                  '--allow-file-access-from-files', '--virtual-time-budget=5000')  # fmt: skip
    wide = re.search(r'<title>wide (\d+)', dom)
    assert wide and int(wide[1]) <= 390


def test_many_languages_print(tmp_path: Path) -> None:
    many = {'few': [f'l{i:03d}_Latn' for i in range(60)],
            'many': [f'l{i:03d}_Latn' for i in range(60, 204)]}  # fmt: skip
    page = page_of(many, tmp_path / 'page.html', 2)
    log = browser(page, tmp_path, f'--print-to-pdf={tmp_path / "page.pdf"}')
    assert not re.findall('CONSOLE.*', log)
    assert (tmp_path / 'page.pdf').read_bytes().startswith(b'%PDF')
    assert screenshot(page, tmp_path, LIGHT).shape == (1600, 1100, 3)
