"""Fields of TFDS's features and records: their paths, their values and their texts."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

FieldPath = tuple[str, ...]  # Names of the features from the outermost one to the field.


def subfeatures(feature: Any) -> dict[str, Any]:
    """The named features inside a feature; inside the element of a sequence for a sequence."""
    import tensorflow_datasets as tfds

    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return dict(feature.items()) if isinstance(feature, tfds.features.FeaturesDict) else {}


def find_path(feature: Any, field: str) -> FieldPath | None:
    """The path of a field, such as 'captions/text'; None if there is no such field.

    Names may contain a '/' themselves. '*' is the whole record.
    """
    if field in ('', '*'):
        return ()
    # Because a name may contain '/', all names that begin the field are tried.
    for name, part in subfeatures(feature).items():
        if field == name or field.startswith(f'{name}/'):
            rest = find_path(part, field[len(name) + 1 :])
            if rest is not None:
                return (name, *rest)
    return None


def feature_at(feature: Any, path: FieldPath) -> Any:
    """The feature at the end of a path."""
    return functools.reduce(lambda inner, key: subfeatures(inner)[key], path, feature)


def list_fields(feature: Any, prefix: str = '') -> list[str]:
    """The paths, joined by '/', of all fields that have no fields inside."""
    return [
        path
        for name, part in subfeatures(feature).items()
        for path in list_fields(part, f'{prefix}{name}/') or [f'{prefix}{name}']
    ]


def is_translation(feature: Any) -> bool:
    """Whether a feature holds one text in several languages."""
    import tensorflow_datasets as tfds

    features = tfds.features
    return isinstance(feature, features.Translation | features.TranslationVariableLanguages)


def fixed_languages(feature: Any) -> list[str] | None:
    """The languages that every record of a translation has; None if they vary."""
    import tensorflow_datasets as tfds

    return list(feature) if isinstance(feature, tfds.features.Translation) else None


def find_translations(feature: Any, prefix: str = '') -> list[str]:
    """The paths of all translations, joined by '/'; '*' if the record itself is one."""
    if is_translation(feature):
        return [prefix.removesuffix('/') or '*']
    return [
        path
        for name, part in subfeatures(feature).items()
        for path in find_translations(part, f'{prefix}{name}/')
    ]


def read_translation(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (language, text) of the value of a translation, with fixed or variable languages."""
    is_variable = set(value) == {'language', 'translation'}
    for language, text in (
        zip(value['language'], value['translation']) if is_variable else value.items()
    ):
        yield leaf_to_text(None, language), leaf_to_text(None, text)


def value_at(record: Any, path: FieldPath) -> Any:
    """The value of a record at the end of a path."""
    return functools.reduce(lambda inner, key: inner[key], path, record)


def iterate_leaves(record: Any, path: FieldPath) -> Iterator[Any]:
    """Yields the single values of a field of a record, flattening nested sequences."""
    value = value_at(record, path)
    # Ragged tensors have to_list, arrays have tolist.
    for convert in ('to_list', 'tolist'):
        value = getattr(value, convert)() if hasattr(value, convert) else value
    if not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from iterate_leaves(item, ())


def leaf_to_text(feature: Any, leaf: Any) -> str:
    """A single value as text: the name of a class; surrogates for bytes that are not UTF-8."""
    if isinstance(leaf, bytes):
        return leaf.decode(errors='surrogateescape')
    if isinstance(leaf, int) and hasattr(feature, 'int2str'):
        # Data sets of TFDS write -1 for a missing class.
        return feature.int2str(leaf) if 0 <= leaf < feature.num_classes else ''
    return str(leaf)
