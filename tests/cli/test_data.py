"""The verbs of `mural data`, and a run on ingested data."""

import csv
import io
import json
import random
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import mural
from PIL import Image, ImageDraw

from mural_jax.cli.data import exclude_test_sets

LANGUAGES = ('en', 'pt', 'ar', 'de', 'fr', 'cs', 'hi', 'brx')
CONFIG = ('--config=flickr8k:tiny', '--config.tokenizer.vocab_size=700')
TEST_SET = 'captions/flickr8k:dev'
LETTERS = {'ar': 'ابتثجحخد', 'hi': 'कखगघचछजझ', 'brx': 'कखगघचछजझ'}


def make_word(random_: random.Random, language: str) -> str:
    return ''.join(random_.choice(LETTERS.get(language, 'aeioklmn')) for _ in range(5))


def draw_image(random_: random.Random) -> bytes:
    """A JPEG of a few coloured boxes."""
    image = Image.new('RGB', (112, 96), random_.choice(['white', 'navy', 'olive']))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = random_.randrange(80), random_.randrange(70)
        draw.rectangle((x, y, x + 30, y + 25), random_.choice(['red', 'lime', 'blue', 'black']))
    stream = io.BytesIO()
    image.save(stream, 'JPEG')
    return stream.getvalue()


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions in eight languages, their images in an archive, and a table of translations.

    One image is broken, and the translations hold seven captions of the test split.
    """
    folder, random_ = tmp_path_factory.mktemp('files'), random.Random(3)
    rows = []
    with tarfile.open(folder / 'images.tar', 'w') as archive:
        for number in range(80):
            content = draw_image(random_) if number else b'\xff\xd8\xff nothing more'
            info = tarfile.TarInfo(f'{number}.jpg')
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            split = 'dev' if number >= 60 else 'train'
            for language in LANGUAGES:
                text = ' '.join(make_word(random_, language) for _ in range(4))
                rows.append((f'{number}.jpg', split, language, text))
    with (folder / 'captions.tsv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, delimiter='\t', quoting=csv.QUOTE_NONE)
        writer.writerows([('image', 'split', 'lang', 'caption'), *rows])
    leaks = [text for _, split, language, text in rows if split == 'dev' and language == 'en'][:7]
    with (folder / 'pairs.jsonl').open('w', encoding='utf-8') as file:
        for number in range(60):
            texts = {x: ' '.join(make_word(random_, x) for _ in range(4)) for x in LANGUAGES}
            if number < len(leaks):
                texts['en'] = leaks[number].upper()
            file.write(json.dumps(texts, ensure_ascii=False) + '\n')
    return folder


class Ingested(NamedTuple):
    """A folder of prepared data, and what the commands that made it printed."""

    data_dir: Path
    captions: str
    prepare: str


def run_successfully(*words: object) -> str:
    """What a command printed."""
    done = mural(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def ingested(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """Captions and translations of `files`, prepared for `flickr8k:tiny`."""
    data_dir = tmp_path_factory.mktemp('ingested')
    place = f'--data_dir={data_dir}'
    captions = run_successfully(
        *('data', 'ingest', 'captions', '--name=flickr8k', place),
        *(f'--table={files}/captions.tsv', f'--images={files}/images.tar'),
        *('--language=@lang', '--split_column=split', '--max_bad=0.1'),
    )
    run_successfully(
        *('data', 'ingest', 'pairs', '--name=multi30k', f'--table={files}/pairs.jsonl', place)
    )
    return Ingested(data_dir, captions, run_successfully('prepare', *CONFIG, place))


def test_ingest_counts_broken_images(ingested: Ingested) -> None:
    assert '59 records' not in ingested.captions.split('dev')[0]
    assert re.search('1 image is (broken|not readable)', ingested.captions)


def test_prepare_counts_filtered_texts(ingested: Ingested) -> None:
    assert f'7 by exclude {TEST_SET}: texts' in ingested.prepare


def test_prepare_reports_how_words_are_cut(ingested: Ingested) -> None:
    assert 'tokens per word' in ingested.prepare


class Refused(NamedTuple):
    """An ingest of a data set of 60 records, one of them bad: more than --max_bad allows."""

    data_dir: Path
    words: list[str]
    done: subprocess.CompletedProcess


@pytest.fixture(scope='module')
def refused(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    data_dir = tmp_path_factory.mktemp('refused')
    words = [
        *('data', 'ingest', 'captions', '--name=mine', f'--data_dir={data_dir}'),
        *(f'--table={files}/captions.tsv', f'--images={files}/images.tar'),
        *('--language=@lang', '--split_column=split'),
    ]
    return Refused(data_dir, words, mural(*words))


def test_too_many_bad_records_are_refused(refused: Refused) -> None:
    assert refused.done.returncode == 2
    assert '1 of 60 records of captions/mine:train are bad' in refused.done.stderr


def test_bad_records_are_listed(refused: Refused) -> None:
    (listed,) = refused.data_dir.glob('captions/mine/*/quarantine-train.jsonl')
    bad = json.loads(listed.read_text())
    assert bad['shard'].startswith('captions-train.array_record')
    assert bad['id'] == '0.jpg'


def test_higher_limit_accepts_bad_records(refused: Refused) -> None:
    assert mural(*refused.words, '--max_bad=0.1').returncode == 0


def test_other_files_under_the_same_name_are_refused(files: Path, ingested: Ingested) -> None:
    done = mural(
        *('data', 'ingest', 'pairs', '--name=multi30k'),
        *(f'--table={files}/captions.tsv', f'--data_dir={ingested.data_dir}'),
    )
    assert done.returncode == 2
    assert 'made with other options' in done.stderr


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['captions', '--name=x', '--table=none.tsv'], 'none.tsv'),
        (['captions', '--name=a b', '--table=none.tsv'], 'letters'),
        (['captions', '--name=x', '--table=none.tsv', '--max_bad=2'], '--max_bad must be'),
        (['pairs', '--name=x', '--table=README.md'], 'README.md'),
        (['tmx', '--name=x', '--files', 'setup.cfg'], 'setup.cfg'),
    ],
)
def test_wrong_source_is_named_in_error(words: list[str], said: str, tmp_path: Path) -> None:
    done = mural('data', 'ingest', *words, f'--data_dir={tmp_path}/data')
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert 'Traceback' not in done.stderr


def test_missing_data_set_names_the_command_that_makes_it(tmp_path: Path) -> None:
    done = mural('prepare', '--config=flickr8k:tiny', f'--data_dir={tmp_path}')
    assert done.returncode == 2
    assert 'mural data ingest' in done.stderr


def test_misspelt_data_set_is_answered_with_the_nearest_name(ingested: Ingested) -> None:
    source = '--config.streams.captions.sources.flickr8k.dataset=captions/flicker'
    done = mural('prepare', '--config=flickr8k:tiny', source, f'--data_dir={ingested.data_dir}')
    assert done.returncode == 2
    assert 'captions/flickr8k' in done.stderr


class Resumed(NamedTuple):
    """A run of 8 steps that goes on to step 12 with a heavier source."""

    workdir: Path
    words: list[str]  # of the second training
    done: subprocess.CompletedProcess
    before: dict[str, float]  # metrics of step 8


@pytest.fixture(scope='module')
def resumed(ingested: Ingested, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    workdir = tmp_path_factory.mktemp('resumed')
    words = ['train', *CONFIG, f'--data_dir={ingested.data_dir}', f'--workdir={workdir}']
    run_successfully(*words, '--config.schedule.num_steps=8')
    # A longer run is another config, while other weights are not: so the steps change by hand.
    config = json.loads((workdir / 'config.json').read_text())
    config['schedule']['num_steps'] = 12
    (workdir / 'config.json').write_text(json.dumps(config))
    before = read_last_metrics(workdir)
    words.append('--config.streams.translations.sources.multi30k.weight=9.0')
    return Resumed(workdir, words, mural(*words), before)


def read_last_metrics(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])


def test_changed_weights_are_announced_on_resume(resumed: Resumed) -> None:
    assert resumed.done.returncode == 0, resumed.done.stderr
    assert 'weights change at example 128' in resumed.done.stderr
    assert 'drawn in other proportions' in resumed.done.stdout


def test_heavier_source_is_drawn_more_often(resumed: Resumed) -> None:
    def count_drawn(line: dict[str, float]) -> float:
        return sum(
            value
            for key, value in line.items()
            if key.startswith('examples/translations/multi30k/')
        )

    # The stream draws 64 examples more, nine tenths of them from the heavier source.
    more = count_drawn(read_last_metrics(resumed.workdir)) - count_drawn(resumed.before)
    assert 48 <= more <= 64


def test_changed_weights_are_kept_in_the_config(resumed: Resumed) -> None:
    config = json.loads((resumed.workdir / 'config.json').read_text())
    assert config['streams']['translations']['sources']['multi30k']['weight'] == 9.0


def test_other_changes_are_refused_on_resume(resumed: Resumed) -> None:
    done = mural(*resumed.words, '--config.streams.translations.max_length=8')
    assert done.returncode == 2
    assert 'another config' in done.stderr


def test_ingested_data_is_scored_in_all_languages(resumed: Resumed, ingested: Ingested) -> None:
    run_successfully('evaluate', f'--workdir={resumed.workdir}', f'--data_dir={ingested.data_dir}')
    scores = json.loads((resumed.workdir / 'eval' / '12.json').read_text())
    results = scores['results']['image_text_dev']
    assert set(results) == {*LANGUAGES, 'mean_image_text', 'mean_translation_only'}
    assert np.isfinite(results['brx']['mean_recall'])


@pytest.fixture(scope='module')
def decontaminated(
    ingested: Ingested, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(what `mural data decontaminate` printed, the folder of its report)."""
    out = tmp_path_factory.mktemp('decontaminated')
    words = ('data', 'decontaminate', *CONFIG, f'--data_dir={ingested.data_dir}', f'--out={out}')
    return run_successfully(*words, '--against', TEST_SET), out


def test_decontamination_counts_leaks(decontaminated: tuple[str, Path]) -> None:
    assert f'0 images and 7 texts of {TEST_SET}' in decontaminated[0]


def test_decontamination_prints_the_setting_that_excludes(decontaminated: tuple[str, Path]) -> None:
    place = 'streams.translations.sources.multi30k'
    assert f'--config.{place}.filters.exclude="(\'{TEST_SET}\',)"' in decontaminated[0]


def test_decontamination_lists_leaks(decontaminated: tuple[str, Path]) -> None:
    report = json.loads((decontaminated[1] / 'report.json').read_text())
    assert len(report['translations.sources.multi30k']['leaks']) == 7


def test_decontamination_writes_a_page(decontaminated: tuple[str, Path]) -> None:
    assert TEST_SET in (decontaminated[1] / 'report.html').read_text()


def test_test_set_without_split_is_refused(ingested: Ingested, tmp_path: Path) -> None:
    done = mural(
        *('data', 'decontaminate', *CONFIG, f'--data_dir={ingested.data_dir}'),
        *(f'--out={tmp_path}', '--against', 'captions/flickr8k'),
    )
    assert done.returncode == 2
    assert 'has no split' in done.stderr


def test_test_sets_are_excluded_from_other_sources_only() -> None:
    sources = {
        'own': {'dataset': 'captions/a', 'split': 'test'},
        'other': {'dataset': 'captions/a', 'filters': {'exclude': ('captions/b:test',)}},
    }
    config = exclude_test_sets({'streams': {'captions': {'sources': sources}}}, ['captions/a:test'])
    excluded = {
        name: source['filters']['exclude']
        for name, source in config['streams']['captions']['sources'].items()
    }
    assert excluded == {'own': (), 'other': ('captions/b:test', 'captions/a:test')}


def test_page_shows_images_and_texts(ingested: Ingested, tmp_path: Path) -> None:
    out = tmp_path / 'page.html'
    run_successfully('data', 'inspect', *CONFIG, f'--data_dir={ingested.data_dir}', f'--out={out}')
    page = out.read_text()
    assert 'brx' in page
    assert '<img' in page


def test_bench_measures_each_stream(ingested: Ingested) -> None:
    place = f'--data_dir={ingested.data_dir}'
    said = run_successfully('data', 'bench', *CONFIG, place, '--seconds=0.2')
    assert 'captions' in said and 'translations' in said


def test_bench_of_no_time_is_refused() -> None:
    done = mural('data', 'bench', *CONFIG, '--seconds=0')
    assert done.returncode == 2
    assert '--seconds 0.0 must be more than 0' in done.stderr
