"""The fields of TFDS's features and records: paths to them, their values, their texts."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

FieldPath = tuple[str, ...]  # The way down to a field.


def subfeatures(feature: Any) -> dict[str, Any]:
    """The named features inside of a feature, or inside of what it is a sequence of."""
    import tensorflow_datasets as tfds

    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return dict(feature.items()) if isinstance(feature, tfds.features.FeaturesDict) else {}


def find_path(feature: Any, field: str) -> FieldPath | None:
    """The way to a field, whose names may have a / in them; '*' is the whole record."""
    if field in ('', '*'):
        return ()
    for name, part in subfeatures(feature).items():
        if field == name or field.startswith(f'{name}/'):
            rest = find_path(part, field[len(name) + 1 :])
            if rest is not None:
                return (name, *rest)
    return None


def feature_at(feature: Any, keys: FieldPath) -> Any:
    return functools.reduce(lambda inner, key: subfeatures(inner)[key], keys, feature)


def list_fields(feature: Any, prefix: str = '') -> list[str]:
    """The paths of all fields that have no fields themselves."""
    return [
        path
        for name, part in subfeatures(feature).items()
        for path in list_fields(part, f'{prefix}{name}/') or [f'{prefix}{name}']
    ]


def is_translation(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    features = tfds.features
    return isinstance(feature, features.Translation | features.TranslationVariableLanguages)


def fixed_languages(feature: Any) -> list[str] | None:
    """The languages that every record of a translation has; None where they vary."""
    import tensorflow_datasets as tfds

    return list(feature) if isinstance(feature, tfds.features.Translation) else None


def find_translations(feature: Any, prefix: str = '') -> list[str]:
    """The paths of all fields with translations; '*' where the record itself is one."""
    if is_translation(feature):
        return [prefix.removesuffix('/') or '*']
    return [
        path
        for name, part in subfeatures(feature).items()
        for path in find_translations(part, f'{prefix}{name}/')
    ]


def read_translation(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(language, text) of a translation, or of one with variable languages."""
    variable = set(value) == {'language', 'translation'}
    for language, text in (
        zip(value['language'], value['translation']) if variable else value.items()
    ):
        yield leaf_to_text(None, language), leaf_to_text(None, text)


def value_at(record: Any, keys: FieldPath) -> Any:
    return functools.reduce(lambda inner, key: inner[key], keys, record)


def iterate_leaves(record: Any, keys: FieldPath) -> Iterator[Any]:
    """The values of a field of a record, those of nested sequences one after the other."""
    value = value_at(record, keys)
    for convert in ('to_list', 'tolist'):  # Of ragged tensors, of arrays.
        value = getattr(value, convert)() if hasattr(value, convert) else value
    if not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from iterate_leaves(item, ())


def leaf_to_text(feature: Any, leaf: Any) -> str:
    """A value as text: a class by its name, bytes that are no UTF-8 as surrogates."""
    if isinstance(leaf, bytes):
        return leaf.decode(errors='surrogateescape')
    if isinstance(leaf, int) and hasattr(feature, 'int2str'):
        return feature.int2str(leaf) if 0 <= leaf < feature.num_classes else ''
    return str(leaf)
