"""The page in a browser: no network, no messages on the console, dark and light."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from evaluation.galleries import make_run
from evaluation.report.pages import EIGHT, make_findings
from PIL import Image

from mural_jax.evaluation.report.page import write_page

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium; apt-get install it')
DARK, LIGHT = 0, 1  # values of --blink-settings=preferredColorScheme


def open_in_browser(page: Path, tmp_path: Path, *more: str) -> str:
    """What chromium logs about a page."""
    assert CHROMIUM
    flags = [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--hide-scrollbars',
        f'--user-data-dir={tmp_path / "profile"}',
        '--enable-logging=stderr',
        '--v=0',
        '--host-resolver-rules=MAP * ~NOTFOUND',
    ]
    done = subprocess.run(
        [CHROMIUM, *flags, *more, page.as_uri()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def take_screenshot(page: Path, tmp_path: Path, scheme: int, width: int = 1100) -> np.ndarray:
    """float64 [H, W, 3] in [0, 255]. Fails if the console has a message."""
    out = tmp_path / f'shot{scheme}.png'
    log = open_in_browser(
        page,
        tmp_path,
        f'--window-size={width},1600',
        f'--screenshot={out}',
        f'--blink-settings=preferredColorScheme={scheme}',
    )
    assert not re.findall(r'CONSOLE.*|.*Failed to load.*|.*net::ERR.*', log)
    with Image.open(out) as image:
        return np.asarray(image.convert('RGB'), np.float64)


def write_made_up(groups: dict[str, Sequence[str]], path: Path, evaluators: int = 1) -> Path:
    runs = [make_run('first', groups, 0.3, evaluators), make_run('second', groups, 0.5, evaluators)]
    write_page(path, runs, make_findings(groups, 2))
    assert path.stat().st_size < 5e6
    return path


def test_page_follows_light_and_dark_mode(tmp_path: Path) -> None:
    page = write_made_up(EIGHT, tmp_path / 'page.html')
    light, dark = (take_screenshot(page, tmp_path, scheme) for scheme in (LIGHT, DARK))
    assert np.median(light) > 245 and np.median(dark) < 40
    # Curves and letters stand out from the ground in both.
    assert light.min() < 60 and dark.max() > 200


def test_page_fits_a_telephone(tmp_path: Path) -> None:
    """It is no wider than the window, says a script in a frame around it."""
    page = write_made_up(EIGHT, tmp_path / 'page.html')
    measure = (
        '<iframe id=f width=390 height=800 src="page.html"></iframe><script>onload = () => '
        'document.title = "wide " + f.contentDocument.documentElement.scrollWidth</script>'
    )
    frame = page.with_name('frame.html')
    frame.write_text(measure, encoding='utf-8')
    flags = '--dump-dom', '--allow-file-access-from-files', '--virtual-time-budget=5000'
    width = re.search(r'<title>wide (\d+)', open_in_browser(frame, tmp_path, *flags))
    assert width and int(width[1]) <= 390


def test_page_of_many_languages_prints(tmp_path: Path) -> None:
    codes = [f'l{i:03d}_Latn' for i in range(204)]
    page = write_made_up({'few': codes[:60], 'many': codes[60:]}, tmp_path / 'page.html', 2)
    log = open_in_browser(page, tmp_path, f'--print-to-pdf={tmp_path / "page.pdf"}')
    assert not re.findall('CONSOLE.*', log)
    assert (tmp_path / 'page.pdf').read_bytes().startswith(b'%PDF')
    assert take_screenshot(page, tmp_path, LIGHT).shape == (1600, 1100, 3)
