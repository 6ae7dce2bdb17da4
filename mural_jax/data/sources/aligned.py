"""Sentences and their translations in plain text files, one file per language, line by line."""

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
    """A reader of plain text files, one per language, whose lines i mean the same.

    kind: Kind of the texts.
    """

    kind: str = 'sentence'

    family: ClassVar[str] = 'translations'

    def corpora(self) -> Corpora:
        """The sets of files that are aligned with each other; each set is one part."""
        raise NotImplementedError

    def split_name(self) -> str:
        """The split that all parts belong to."""
        raise NotImplementedError

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {self.split_name(): list(self._select_languages())}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        corpus = self._select_languages()[part]
        columns = [(language, path) for language, paths in corpus.items() for path in paths]
        for number, texts in enumerate(read_side_by_side([path for _, path in columns])):
            yield Example(
                id=f'{part}:{number}',
                texts=[(language, self.kind, text) for (language, _), text in zip(columns, texts)],
                where=f'{part}, line {number + 1}',
            )

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """As in Reader; the names of the files tell the languages."""
        corpora = self._select_languages().values()
        return sorted({language for corpus in corpora for language in corpus}), [self.kind]

    def _select_languages(self) -> Corpora:
        """The corpora that have at least two of the wanted languages, in these languages only."""
        corpora = self.corpora()
        known = {language for corpus in corpora.values() for language in corpus}
        wanted = set(self.languages) or known
        if wanted - known:
            raise UserError(f'No file is in {sorted(wanted - known)}; there are {sorted(known)}.')
        selected = {
            name: {language: paths for language, paths in corpus.items() if language in wanted}
            for name, corpus in corpora.items()
        }
        # A corpus in one language has nothing to pair.
        pairs = {name: corpus for name, corpus in selected.items() if len(corpus) > 1}
        if not pairs:
            raise UserError(
                f'No two files in {sorted(wanted)} belong together, so there is nothing to pair.'
            )
        return pairs


def read_side_by_side(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields line i of all files, one text per file.

    Raises:
      UserError: A file is unreadable, or has more lines than another.
    """
    with contextlib.ExitStack() as stack:
        # Only \n ends a line: other line breaks occur inside sentences, and would shift all later
        # lines.
        files = [stack.enter_context(tables.open_text(path, newline='\n')) for path in paths]
        lines = [tables.read_lines(file, path) for file, path in zip(files, paths)]
        try:
            for number, row in enumerate(itertools.zip_longest(*lines)):
                if None in row:
                    # Count the remaining lines, for the error message.
                    counts = [
                        number + (line is not None) + sum(1 for _ in rest)
                        for line, rest in zip(row, lines)
                    ]
                    raise UserError(_describe_lengths(paths, counts))
                yield tuple(line.rstrip('\r\n') for line in row)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(
                f'Cannot read {", ".join(paths)} ({error}). Are they complete?'
            ) from error


def _describe_lengths(paths: Sequence[str], counts: Sequence[int]) -> str:
    """The error message about files of several lengths: it names the shortest and the longest."""
    short, long = (f(zip(counts, paths)) for f in (min, max))
    return (
        f'{short[1]} has {short[0]:,} lines, {long[1]} has {long[0]:,}: line i of one is not the '
        'translation of line i of the other. Take both from the same release.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moses(LinePairs):
    """Plain text files with aligned lines, as OPUS and WMT publish them ("Moses" format).

    The suffix of a file name is the language: corpus.en-de.en and corpus.en-de.de, also with .gz.
    If two files are in one language, files with the same name before the language are aligned.

    files: Files or patterns of them; LANGUAGE=FILE for a name that does not end in the language.
    split: Split of all rows.
    """

    files: tuple[str, ...]
    split: str = 'train'

    def split_name(self) -> str:
        return self.split

    def corpora(self) -> Corpora:
        pairs = list(dict.fromkeys(pair for words in self.files for pair in self._find(words)))
        names = {
            path: _strip_language(short_name(path, [p for _, p in pairs])) for _, path in pairs
        }
        languages = [language for language, _ in pairs]
        # One file per language is one corpus, however the files are called.
        is_one_corpus = len(set(languages)) == len(languages)
        corpora: dict[str, dict[str, list[str]]] = {}
        for language, path in pairs:
            name = names[pairs[0][1]] if is_one_corpus else names[path]
            corpora.setdefault(name, {}).setdefault(language, []).append(path)
        for name, corpus in corpora.items():
            if len(corpus) < 2:
                raise UserError(f'{name} is in {list(corpus)} only. --files needs two languages.')
        return corpora

    def _find(self, words: str) -> Iterator[tuple[str, str]]:
        """Yields (language, path) of the files that FILE or LANGUAGE=FILE describes."""
        language, equals, pattern = words.rpartition('=')
        is_given = bool(equals) and re.fullmatch(r'[\w-]+', language)
        for path in tables.find_files(pattern if is_given else words, 'text file'):
            own = Path(path.removesuffix('.gz')).suffix[1:]
            if not is_given and not own:
                raise UserError(f'{path} does not end in a language. Write --files LANGUAGE={path}')
            yield (language if is_given else own), path


def _strip_language(path: str) -> str:
    return path.removesuffix('.gz').rpartition('.')[0] or path


@dataclasses.dataclass(frozen=True)
class AlignedLayout:
    """How the files of a published folder are named.

    glob: Pattern of the files.
    pattern: Regular expression of their names, with a group `language`.
    split: Split of their sentences.
    """

    glob: str
    pattern: str
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
    """A folder with one file per language and parallel lines, as in FLORES-200 and NTREX-128.

    FLORES: dev/eng_Latn.dev or devtest/eng_Latn.devtest; NTREX: newstest2019-src.eng.txt and
    newstest2019-ref.deu.txt. Language codes stay as they are published.

    folder: The folder with the files.
    layout: Layout of the folder, flores or ntrex.
    pattern: Pattern of the files; without the flag *.dev for flores, *.txt for ntrex.
    split: Split of all rows; without the flag dev for flores, test for ntrex.
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
        pattern = f'{self.folder}/{self.pattern or layout.glob}'
        for path in tables.find_files(pattern, 'aligned file'):
            match = re.fullmatch(layout.pattern, Path(path).name)
            if match is None:
                raise UserError(
                    f'The name of {path} does not fit the layout {self.layout}. Give --pattern.'
                )
            corpus.setdefault(match['language'], []).append(path)
        if len(corpus) < 2:
            raise UserError(f'{self.folder} has {list(corpus)} only, so there is nothing to pair.')
        return {self.layout: corpus}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tatoeba(LinePairs):
    """Tatoeba's test sentences, as in github.com/facebookresearch/LASER, data/tatoeba/v1.

    The files come in pairs, such as tatoeba.afr-eng.afr and tatoeba.afr-eng.eng; XTREME downloads
    the same files. Codes are ISO 639-3 and stay as they are published. The files that XTREME makes
    of them, af-en.af and af-en.en, are refused: their English lines are sorted, so they are not
    aligned any more.

    folder: The folder with the files.
    split: Split of all rows.
    """

    folder: str
    split: str = 'test'

    def split_name(self) -> str:
        return self.split

    def corpora(self) -> Corpora:
        corpora: dict[str, dict[str, list[str]]] = {}
        pattern = f'{self.folder}/tatoeba.*-*.*'
        for path in tables.find_files(pattern, 'file of Tatoeba, as in LASER,'):
            match = re.fullmatch(r'(tatoeba\.(\w+)-(\w+))\.(\w+)', Path(path).name)
            # The suffix must be one of the two languages of the name.
            if match and match[4] in (match[2], match[3]):
                corpora.setdefault(match[1], {})[match[4]] = [path]
        complete = {name: corpus for name, corpus in corpora.items() if len(corpus) == 2}
        if len(complete) < len(corpora) or not complete:
            single = sorted(set(corpora) - set(complete))
            raise UserError(
                f'{self.folder} does not have both files of {single}. Copy the whole folder.'
            )
        if self.languages:
            selected = {
                name: corpus
                for name, corpus in complete.items()
                if len(set(corpus) & set(self.languages)) == 2
            }
            # If no pair is in these languages, `_select_languages` says so.
            return selected or complete
        return complete
