"""`mural data` and a run on ingested data, as a user meets them."""

import csv
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import mural
from PIL import Image, ImageDraw

LANGUAGES = ('en', 'pt', 'ar', 'de', 'fr', 'cs', 'hi', 'brx')
LETTERS = {'ar': 'ابتثجحخد', 'hi': 'कखगघचछजझ', 'brx': 'कखगघचछजझ'}


def word(random_: random.Random, language: str) -> str:
    return ''.join(random_.choice(LETTERS.get(language, 'aeioklmn')) for _ in range(5))


def picture(random_: random.Random) -> bytes:
    """A few coloured boxes."""
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
    """Captions in eight languages, their pictures in an archive, and a table of translations.

    One picture is broken, and the translations hold captions of the test split.
    """
    folder, random_ = tmp_path_factory.mktemp('files'), random.Random(3)
    rows = []
    with tarfile.open(folder / 'images.tar', 'w') as archive:
        for number in range(80):
            content = picture(random_) if number else b'\xff\xd8\xff nothing more'
            info = tarfile.TarInfo(f'{number}.jpg')
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            split = 'dev' if number >= 60 else 'train'
            for language in LANGUAGES:
                text = ' '.join(word(random_, language) for _ in range(4))
                rows.append((f'{number}.jpg', split, language, text))
    with (folder / 'captions.tsv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, delimiter='\t', quoting=csv.QUOTE_NONE)
        writer.writerows([('image', 'split', 'lang', 'caption'), *rows])
    leaks = [text for _, split, language, text in rows if split == 'dev' and language == 'en'][:7]
    with (folder / 'pairs.jsonl').open('w', encoding='utf-8') as file:
        for number in range(60):
            texts = {x: ' '.join(word(random_, x) for _ in range(4)) for x in LANGUAGES}
            if number < len(leaks):
                texts['en'] = leaks[number].upper()
            file.write(json.dumps(texts, ensure_ascii=False) + '\n')
    return folder


@pytest.fixture(scope='module')
def ingested(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp('ingested')
    done = mural('data', 'ingest', 'captions', '--name=flickr8k', f'--data_dir={data_dir}',
                 f'--table={files}/captions.tsv', f'--images={files}/images.tar',
                 '--language=@lang', '--split_column=split', '--max_bad=0.1')  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '59 records' not in done.stdout.split('dev')[0]
    assert '1 picture is broken' in done.stdout or '1 picture is not an image' in done.stdout
    done = mural('data', 'ingest', 'pairs', '--name=multi30k', f'--table={files}/pairs.jsonl',
                 f'--data_dir={data_dir}')  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = mural('prepare', '--config=flickr8k:tiny', '--config.tokenizer.vocab_size=700',
                 f'--data_dir={data_dir}')  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '7 by exclude captions/flickr8k:dev: texts' in done.stdout
    assert 'tokens per word' in done.stdout
    return data_dir


CONFIG = ('--config=flickr8k:tiny', '--config.tokenizer.vocab_size=700')


def test_too_many_bad_records_are_refused_and_listed(files: Path, tmp_path: Path) -> None:
    words = ['data', 'ingest', 'captions', '--name=mine', f'--data_dir={tmp_path}',
             f'--table={files}/captions.tsv', f'--images={files}/images.tar', '--language=@lang',
             '--split_column=split']  # fmt: skip
    done = mural(*words)
    assert done.returncode == 2
    assert '1 of 60 records of captions/mine:train are bad' in done.stderr
    (listed,) = tmp_path.glob('captions/mine/*/quarantine-train.jsonl')
    bad = json.loads(listed.read_text())
    assert bad['shard'].startswith('captions-train.array_record')
    assert bad['id'] == '0.jpg'
    assert mural(*words, '--max_bad=0.1').returncode == 0


def test_other_input_under_the_same_name_is_refused(files: Path, ingested: Path) -> None:
    done = mural('data', 'ingest', 'pairs', '--name=multi30k', f'--table={files}/captions.tsv',
                 f'--data_dir={ingested}')  # fmt: skip
    assert done.returncode == 2
    assert 'made of something else' in done.stderr


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['captions', '--name=x', '--table=none.tsv'], 'none.tsv'),
        (['captions', '--name=a b', '--table=none.tsv'], 'letters'),
        (['pairs', '--name=x', '--table=README.md'], 'README.md'),
        (['tmx', '--name=x', '--files', 'setup.cfg'], 'setup.cfg'),
    ],
)
def test_wrong_input_is_said(words: list[str], said: str, tmp_path: Path) -> None:
    done = mural('data', 'ingest', *words, f'--data_dir={tmp_path}/data')
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert 'Traceback' not in done.stderr


def test_an_unknown_data_set_is_named_with_what_there_is(ingested: Path, tmp_path: Path) -> None:
    done = mural('prepare', '--config=flickr8k:tiny', f'--data_dir={tmp_path}')
    assert done.returncode == 2
    assert 'mural data ingest' in done.stderr
    source = '--config.streams.captions.sources.flickr8k.dataset=captions/flicker'
    done = mural('prepare', '--config=flickr8k:tiny', source, f'--data_dir={ingested}')
    assert done.returncode == 2
    assert 'captions/flickr8k' in done.stderr


def test_weights_change_on_resume_and_other_things_do_not(ingested: Path, tmp_path: Path) -> None:
    words = ['train', *CONFIG, f'--data_dir={ingested}', f'--workdir={tmp_path}']
    done = mural(*words, '--config.schedule.num_steps=8')
    assert done.returncode == 0, done.stderr
    heavier = '--config.streams.translations.sources.multi30k.weight=9.0'
    # A longer run is another config; weights are not.
    config = json.loads((tmp_path / 'config.json').read_text())
    config['schedule']['num_steps'] = 12
    (tmp_path / 'config.json').write_text(json.dumps(config))
    before = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])
    done = mural(*words, heavier)
    assert done.returncode == 0, done.stderr
    assert 'weights change at example 128' in done.stderr
    assert 'another mixture' in done.stdout
    after = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])

    def drawn(line: dict, source: str) -> int:
        place = f'examples/translations/{source}/'
        return sum(value for key, value in line.items() if key.startswith(place))

    # 64 examples more, nine tenths of them from the heavier source.
    more = drawn(after, 'multi30k') - drawn(before, 'multi30k')
    assert 48 <= more <= 64
    assert json.loads((tmp_path / 'config.json').read_text())['streams']['translations'][
        'sources']['multi30k']['weight'] == 9.0  # fmt: skip
    done = mural(*words, heavier, '--config.streams.translations.max_length=8')
    assert done.returncode == 2
    assert 'another config' in done.stderr
    done = mural('evaluate', f'--workdir={tmp_path}', f'--data_dir={ingested}')
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / 'eval' / '12.json').read_text())
    assert set(scores['results']['image_text_dev']) == {*LANGUAGES, 'mean_image_text',
                                                        'mean_translation_only'}  # fmt: skip
    assert np.isfinite(scores['results']['image_text_dev']['brx']['mean_recall'])


def test_decontamination_reports_what_it_found(ingested: Path, tmp_path: Path) -> None:
    done = mural('data', 'decontaminate', *CONFIG, f'--data_dir={ingested}', f'--out={tmp_path}',
                 '--against', 'captions/flickr8k:dev')  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '0 pictures and 7 texts of captions/flickr8k:dev' in done.stdout
    report = json.loads((tmp_path / 'report.json').read_text())
    leaks = report['translations.sources.multi30k']['leaks']
    assert len(leaks) == 7
    assert 'captions/flickr8k:dev' in (tmp_path / 'report.html').read_text()
    done = mural('data', 'decontaminate', *CONFIG, f'--data_dir={ingested}', f'--out={tmp_path}',
                 '--against', 'captions/flickr8k')  # fmt: skip
    assert done.returncode == 2
    assert 'names no split' in done.stderr


def test_inspect_and_bench_run(ingested: Path, tmp_path: Path) -> None:
    done = mural('data', 'inspect', *CONFIG, f'--data_dir={ingested}', f'--out={tmp_path}/a.html')
    assert done.returncode == 0, done.stderr
    page = (tmp_path / 'a.html').read_text()
    assert 'brx' in page
    assert '<img' in page
    done = mural('data', 'bench', *CONFIG, f'--data_dir={ingested}', '--seconds=0.2')
    assert done.returncode == 0, done.stderr
    assert 'captions' in done.stdout
