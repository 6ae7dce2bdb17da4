"""Sentences and their translations in plain text files, one a language, read side by side."""

import contextlib
import dataclasses
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mural_jax.data.sources import tables
from mural_jax.data.sources.pairs import short_name
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.types import UserError

Corpora = Mapping[str, Mapping[str, Sequence[str]]]  # Name -> language -> files.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinePairs(Reader):
    """Plain text files, one a language, whose line i says the same in all of them.

    kind: what the texts are.
    """

    kind: str = 'sentence'

    family: ClassVar[str] = 'translations'

    def corpora(self) -> Corpora:
        """The sets of files that stand side by side; one is a part."""
        raise NotImplementedError

    def split_name(self) -> str:
        """The one split of all parts."""
        raise NotImplementedError

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {self.split_name(): list(self._wanted())}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        columns = [(lang, path) for lang, paths in self._wanted()[part].items() for path in paths]
        for number, texts in enumerate(read_side_by_side([path for _, path in columns])):
            yield Example(
                id=f'{part}:{number}',
                texts=[(lang, self.kind, text) for (lang, _), text in zip(columns, texts)],
                where=f'{part}, line {number + 1}',
            )

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """As in Reader, of the names of the files."""
        return sorted({language for corpus in self._wanted().values() for language in corpus}), [
            self.kind
        ]

    def _wanted(self) -> Corpora:
        """The corpora, of their files those in the languages to take, where two are left."""
        corpora = self.corpora()
        found = {language for corpus in corpora.values() for language in corpus}
        taken = set(self.languages) or found
        if taken - found:
            raise UserError(f'No file is in {sorted(taken - found)}; there are {sorted(found)}.')
        wanted = {
            name: {language: paths for language, paths in corpus.items() if language in taken}
            for name, corpus in corpora.items()
        }
        pairs = {name: corpus for name, corpus in wanted.items() if len(corpus) > 1}
        if not pairs:
            raise UserError(f'No two files in {sorted(taken)} belong together: nothing to pair.')
        return pairs


def read_side_by_side(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Line i of all the files. Raises UserError where one has more lines than another."""
    with contextlib.ExitStack() as stack:
        # Only \n ends a line: other breaks can stand inside of a sentence, and would shift it.
        files = [stack.enter_context(tables.open_text(path, newline='\n')) for path in paths]
        lines = [tables.read_lines(file, path) for file, path in zip(files, paths)]
        try:
            for number, row in enumerate(itertools.zip_longest(*lines)):
                if None in row:
                    counts = [
                        number + (line is not None) + sum(1 for _ in rest)
                        for line, rest in zip(row, lines)
                    ]
                    raise UserError(_describe_lengths(paths, counts))
                yield tuple(line.rstrip('\r\n') for line in row)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f'Cannot read {", ".join(paths)} ({error}). Are they whole?') from error


def _describe_lengths(paths: Sequence[str], counts: Sequence[int]) -> str:
    """The sentence about files that are not aligned: the shortest and the longest."""
    short, long = (f(zip(counts, paths)) for f in (min, max))
    return (
        f'{short[1]} has {short[0]:,} lines, {long[1]} has {long[0]:,}: line i of one is not the '
        'translation of line i of the other. Take both from the same release.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moses(LinePairs):
    """Plain text files whose lines are aligned, as OPUS and WMT publish them ("Moses" format).

    The language is what follows the last dot: corpus.en-de.en and corpus.en-de.de, or with .gz.
    Where two files are in one language, those that share the rest of their name belong together.

    files: the files or patterns of them; LANGUAGE=FILE where the name does not end in the language.
    split: the split of all rows.
    """

    files: tuple[str, ...]
    split: str = 'train'

    def split_name(self) -> str:
        return self.split

    def corpora(self) -> Corpora:
        named = list(dict.fromkeys(pair for words in self.files for pair in self._named(words)))
        names = {
            path: _strip_language(short_name(path, [p for _, p in named])) for _, path in named
        }
        languages = [language for language, _ in named]
        alone = len(set(languages)) == len(languages)
        corpora: dict[str, dict[str, list[str]]] = {}
        for language, path in named:
            name = names[named[0][1]] if alone else names[path]
            corpora.setdefault(name, {}).setdefault(language, []).append(path)
        for name, corpus in corpora.items():
            if len(corpus) < 2:
                raise UserError(f'{name} is in {list(corpus)} only. --files needs two languages.')
        return corpora

    def _named(self, words: str) -> Iterator[tuple[str, str]]:
        language, equals, pattern = words.rpartition('=')
        given = bool(equals) and re.fullmatch(r'[\w-]+', language)
        for path in tables.find_files(pattern if given else words, 'text file'):
            own = Path(path.removesuffix('.gz')).suffix[1:]
            if not given and not own:
                raise UserError(f'{path} does not end in a language. Write --files LANGUAGE={path}')
            yield (language if given else own), path


def _strip_language(path: str) -> str:
    return path.removesuffix('.gz').rpartition('.')[0] or path


@dataclasses.dataclass(frozen=True)
class AlignedLayout:
    """How a folder of aligned files is named: a glob, a pattern with `language`, the split."""

    glob: str
    name: str
    split: str


LAYOUTS = {
    # github.com/facebookresearch/flores, flores200: dev/eng_Latn.dev, devtest/eng_Latn.devtest.
    'flores': AlignedLayout('*.dev', r'(?P<language>[^.]+)\.[^.]+', 'dev'),
    # github.com/MicrosoftTranslator/NTREX: newstest2019-src.eng.txt, newstest2019-ref.deu.txt,
    # and a second reference, newstest2019-ref-2.spa.txt.
    'ntrex': AlignedLayout('*.txt', r'.+-(src|ref)(-\d+)?\.(?P<language>[^.]+)\.txt', 'test'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aligned(LinePairs):
    """A folder with a file a language, line i parallel in all, as FLORES-200 and NTREX-128 are.

    FLORES: dev/eng_Latn.dev or devtest/eng_Latn.devtest; NTREX: newstest2019-src.eng.txt and
    newstest2019-ref.deu.txt. Codes of languages are kept as published.

    folder: the folder with the files.
    layout: flores or ntrex.
    pattern: which files; by default *.dev for flores, *.txt for ntrex.
    split: the split of all rows; by default dev for flores, test for ntrex.
    """

    folder: str
    layout: str = 'flores'
    pattern: str = ''
    split: str = ''

    def _layout(self) -> AlignedLayout:
        if self.layout not in LAYOUTS:
            raise UserError(f'--layout {self.layout} is unknown; there are {", ".join(LAYOUTS)}.')
        return LAYOUTS[self.layout]

    def split_name(self) -> str:
        return self.split or self._layout().split

    def corpora(self) -> Corpora:
        layout = self._layout()
        corpus: dict[str, list[str]] = {}
        for path in tables.find_files(
            f'{self.folder}/{self.pattern or layout.glob}', 'aligned file'
        ):
            match = re.fullmatch(layout.name, Path(path).name)
            if match is None:
                raise UserError(f'{path} is not named as in {self.layout}. Give --pattern.')
            corpus.setdefault(match['language'], []).append(path)
        if len(corpus) < 2:
            raise UserError(f'{self.folder} has {list(corpus)} only: there is nothing to pair.')
        return {self.layout: corpus}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tatoeba(LinePairs):
    """Tatoeba's test sentences as in github.com/facebookresearch/LASER, data/tatoeba/v1.

    Pairs of files tatoeba.afr-eng.afr and tatoeba.afr-eng.eng; XTREME downloads the same. Codes
    are ISO 639-3, kept as published. What XTREME makes of them, af-en.af and af-en.en, is not
    read: its English lines are sorted, no longer aligned.

    folder: the folder with the files.
    split: the split of all rows.
    """

    folder: str
    split: str = 'test'

    def split_name(self) -> str:
        return self.split

    def corpora(self) -> Corpora:
        corpora: dict[str, dict[str, list[str]]] = {}
        for path in tables.find_files(
            f'{self.folder}/tatoeba.*-*.*', 'file of Tatoeba, as in LASER,'
        ):
            match = re.fullmatch(r'(tatoeba\.(\w+)-(\w+))\.(\w+)', Path(path).name)
            if match and match[4] in (match[2], match[3]):
                corpora.setdefault(match[1], {})[match[4]] = [path]
        whole = {name: corpus for name, corpus in corpora.items() if len(corpus) == 2}
        if len(whole) < len(corpora) or not whole:
            alone = sorted(set(corpora) - set(whole))
            raise UserError(f'{self.folder} has not both files of {alone}. Copy the whole folder.')
        if self.languages:
            return {
                n: c for n, c in whole.items() if len(set(c) & set(self.languages)) == 2
            } or whole
        return whole
