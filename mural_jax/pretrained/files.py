"""Readers of published files: safetensors and npz, but no format that can run code."""

import json
import zipfile
from pathlib import Path

import numpy as np
import safetensors

from mural_jax.types import UserError

Arrays = dict[str, np.ndarray]
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
READABLE = '*.safetensors or *.npz'


def read_arrays(path: Path) -> Arrays:
    """Returns all arrays of a file, or of the files of a folder, by name.

    Floating-point arrays become float32, others keep their dtype. Raises UserError if there is
    nothing to read, or only a pickle: a pickle runs whatever code its author put into it.
    """
    if path.is_dir():
        return _read_folder_arrays(path)
    if path.suffix in PICKLES:
        raise UserError(_explain_pickle_refusal(path))
    readers = {'.safetensors': _read_safetensors, '.npz': _read_npz}
    if path.suffix not in readers or not path.is_file():
        reason = 'is no file' if not path.is_file() else 'has an unknown format'
        raise UserError(f'{path} {reason}. Give a file {READABLE}, or a folder with one.')
    try:
        arrays = readers[path.suffix](path)
    except (
        OSError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        raise UserError(
            f'{path} cannot be read ({error}). Download it again, or convert it again.'
        ) from error
    return {name: _convert_to_float32(array) for name, array in arrays.items()}


def _read_folder_arrays(folder: Path) -> Arrays:
    """Returns the arrays of all shards that an index lists, or else of the only file.

    A folder may hold the same model in several formats; safetensors comes first.
    """
    index = folder / 'model.safetensors.index.json'
    if index.exists():
        shards = sorted(set(json.loads(index.read_text())['weight_map'].values()))
        return {k: v for shard in shards for k, v in read_arrays(folder / shard).items()}
    for pattern in ('*.safetensors', '*.npz'):
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            names = ', '.join(file.name for file in files)
            raise UserError(f'{folder} has several models ({names}). Give one of the files.')
        if files:
            return read_arrays(files[0])
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UserError(_explain_pickle_refusal(pickles[0]))
    raise UserError(f'{folder} has no weights. Give a folder with a file {READABLE}.')


def _explain_pickle_refusal(path: Path) -> str:
    target = path.with_suffix('.safetensors')
    return (
        f'{path} is a pickle. Reading a pickle can run any code, so it is refused. Convert it '
        'once, where PyTorch and safetensors are installed:\n'
        f'  python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{path}', map_location='cpu', weights_only=True); "
        "w = w.get('state_dict', w); "
        "s.save_file({k.removeprefix('module.'): v.clone().contiguous() for k, v in w.items() "
        f"if torch.is_tensor(v)}}, '{target}')\"\n"
        f'Then give {target}.'
    )


def _read_safetensors(path: Path) -> Arrays:
    # 'flax' returns JAX arrays, because NumPy has no bfloat16.
    with safetensors.safe_open(path, framework='flax') as file:
        return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def _read_npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        # big_vision saves the whole training state, with the model below 'params'.
        return {name.replace('params/', '', 1): file[name] for name in file.files}


def _convert_to_float32(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in 'iub':
        return array
    # NumPy writes bfloat16 as two bytes of type void. They are the upper half of a float32.
    if array.dtype.kind == 'V' and array.dtype.itemsize == 2:
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
