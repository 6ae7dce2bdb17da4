"""Reading published files: safetensors and npz, never anything that can run code."""

import json
import zipfile
from pathlib import Path

import numpy as np
import safetensors

from mural_jax.types import UserError

Arrays = dict[str, np.ndarray]
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
READABLE = '*.safetensors or *.npz'


def read(path: Path) -> Arrays:
    """All arrays of a file, or of the files in a folder, by name, in float32.

    Raises UserError where there is nothing that can be read, or a pickle: a pickle runs whatever
    code its author put in.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in PICKLES:
        raise UserError(_refusal(path))
    readers = {'.safetensors': _read_safetensors, '.npz': _read_npz}
    if path.suffix not in readers or not path.is_file():
        why = 'is no file' if not path.is_file() else 'is of a kind that is not read'
        raise UserError(f'{path} {why}. Give a file {READABLE}, or a folder with one.')
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
            f'{path} cannot be read ({error}). Fetch it again, or convert it again.'
        ) from error
    return {name: _float32(array) for name, array in arrays.items()}


def _read_folder(folder: Path) -> Arrays:
    """The shards that an index names, else one file; a folder may hold a model in other forms."""
    index = folder / 'model.safetensors.index.json'
    if index.exists():
        shards = sorted(set(json.loads(index.read_text())['weight_map'].values()))
        return {k: v for shard in shards for k, v in read(folder / shard).items()}
    for pattern in ('*.safetensors', '*.npz'):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ', '.join(file.name for file in found)
            raise UserError(f'{folder} has several models ({names}). Give one of the files.')
        if found:
            return read(found[0])
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UserError(_refusal(pickles[0]))
    raise UserError(f'{folder} has no weights. Give a folder with a file {READABLE}.')


def _refusal(path: Path) -> str:
    target = path.with_suffix('.safetensors')
    return (
        f'{path} is a pickle, which can run any code when it is read, so it is refused. Convert it '
        'once, where PyTorch and safetensors are installed:\n'
        f'  python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{path}', map_location='cpu', weights_only=True); "
        "w = w.get('state_dict', w); "
        "s.save_file({k.removeprefix('module.'): v.clone().contiguous() for k, v in w.items() "
        f"if torch.is_tensor(v)}}, '{target}')\"\n"
        f'and give {target}.'
    )


def _read_safetensors(path: Path) -> Arrays:
    # 'flax' gives JAX arrays, which know bfloat16, where NumPy does not.
    with safetensors.safe_open(path, framework='flax') as file:
        return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def _read_npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name.replace('params/', '', 1): file[name] for name in file.files}


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in 'iub':
        return array
    if array.dtype.kind == 'V' and array.dtype.itemsize == 2:  # bfloat16 in an npz
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
