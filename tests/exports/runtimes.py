"""Exports in environments that have their runtime alone, as those who get them do.

    python tests/exports/runtimes.py --runs RUN CLIP_RUN --out=DIR

RUN is any run that was evaluated, CLIP_RUN one of `clip:*`. For each format an environment is made
below DIR, the runtime is installed, and a few lines without mural_jax encode examples of both runs
(of CLIP_RUN alone where the format takes nothing else). Prints the lowest cosines of pictures and
of texts with what `mural_jax.load` gives; exit code 1 where one is below 0.9999.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

import mural_jax
from mural_jax.inference.pictures import squares
from mural_jax.search.run_index import Index

COUNT, LEAST = 16, 0.9999
PARITY = ['torch==2.13.0', 'transformers', 'pillow', 'safetensors']
HEAD = """
import json, sys
import numpy as np
folder = sys.argv[1]
given = np.load(sys.argv[2])
texts = json.loads(str(given['texts']))
files = json.loads(str(given['files']))
"""
TAIL = """
for ours, own in ((image_ND, given['image_ND']), (text_ND, given['text_ND'])):
    ours = np.asarray(ours, np.float64)
    print((ours * own).sum(1).min() / np.linalg.norm(ours, axis=1).max())
assert not any(name.startswith('mural') for name in sys.modules)
"""
# The CPU build of PyTorch beside the CUDA build of torchvision, which lacks its operators there.
OPERATORS = """
import torch
library = torch.library.Library('torchvision', 'FRAGMENT')
for name in ('nms', 'qnms'):
    library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
from PIL import Image
"""
# format: (what is installed, which of it without what it asks for, which runs, the lines)
FORMATS = {
    'stablehlo': (['jax', 'flatbuffers'], [], (0, 1), """
from jax import export
def encode(name, inputs):
    with open(f'{folder}/{name}.stablehlo', 'rb') as file:
        return export.deserialize(bytearray(file.read())).call(inputs)
image_ND, text_ND = encode('image', given['pixels']), encode('text', given['tokens'])
"""),
    'onnx': (['onnxruntime'], [], (0, 1), """
import onnxruntime
def encode(name, inputs):
    tower = onnxruntime.InferenceSession(f'{folder}/{name}.onnx')
    return tower.run(None, {tower.get_inputs()[0].name: inputs})[0]
image_ND, text_ND = encode('image', given['pixels']), encode('text', given['tokens'])
"""),
    'savedmodel': (['tensorflow-cpu>=2.21'], ['tensorflow-text==2.21.1'], (0, 1), """
import tensorflow as tf, tensorflow_text
model = tf.saved_model.load(folder)
text_ND = model.signatures['text'](tf.constant(texts))['embedding']
pictures = tf.constant([open(path, 'rb').read() for path in files])
image_ND = model.signatures['image'](pictures)['embedding']
"""),
    'transformers': (PARITY, [], (1,), """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
process = AutoImageProcessor.from_pretrained(folder, backend='pil')
words = tokenizer(texts, padding='max_length', truncation=True, return_tensors='pt')
pixels = process([Image.open(path).convert('RGB') for path in files], return_tensors='pt')
with torch.inference_mode():
    text_ND = model.get_text_features(**words).pooler_output.numpy()
    image_ND = model.get_image_features(**pixels).pooler_output.numpy()
text_ND /= np.linalg.norm(text_ND, axis=1, keepdims=True)
image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
"""),
    'open_clip': ([*PARITY, 'open_clip_torch'], [], (1,), OPERATORS + """
import open_clip
model, _, process = open_clip.create_model_and_transforms(f'local-dir:{folder}')
tokenize = open_clip.get_tokenizer(f'local-dir:{folder}')
model.eval()
with torch.inference_mode():
    text_ND = model.encode_text(tokenize(texts), normalize=True).numpy()
    pixels = torch.stack([process(Image.open(path).convert('RGB')) for path in files])
    image_ND = model.encode_image(pixels, normalize=True).numpy()
"""),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--runs', type=Path, nargs=2, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--formats', nargs='+', default=list(FORMATS), choices=FORMATS)
    given = parser.parse_args()
    worst = 1.0
    for kind in given.formats:
        packages, bare, which, lines = FORMATS[kind]
        python = environment(given.out / kind / 'venv', packages, bare)
        for run in (given.runs[number] for number in which):
            found = cosines(kind, run, lines, python, given.out / kind / run.name)
            print(f'| {kind} | {run.name} | {found[0]:.6f} | {found[1]:.6f} |', flush=True)
            worst = min(worst, *found)
    return int(worst < LEAST)


def environment(folder: Path, packages: list[str], bare: list[str]) -> Path:
    """The Python of a new environment."""
    venv.create(folder, with_pip=True)
    python = folder / 'bin' / 'python'
    pip = [python, '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, 'numpy', *packages], check=True)
    if bare:
        subprocess.run([*pip, '--no-deps', *bare], check=True)
    return python.absolute()


def cosines(kind: str, run: Path, lines: str, python: Path, out: Path) -> list[float]:
    """The lowest of pictures and of texts."""
    out.mkdir(parents=True)
    export(run, kind, out / 'model')
    export(run, 'safetensors', out / 'own')
    examples(run, out)
    (out / 'use.py').write_text(HEAD + lines + TAIL, encoding='utf-8')
    command = [python, '-W', 'ignore', 'use.py', 'model', 'examples.npz']
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()[-2:]]


def export(run: Path, kind: str, out: Path) -> None:
    code = 'import sys\nfrom mural_jax.__main__ import main\nsys.exit(main(sys.argv[1:]))\n'
    if kind in ('transformers', 'open_clip'):
        code = OPERATORS + code
    words = ['export', f'--workdir={run}', f'--format={kind}', f'--out={out}']
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *words], check=True)


def examples(run: Path, out: Path) -> None:
    """Pictures and texts of a run's index, prepared and not, and their vectors."""
    index = Index.load(sorted((run / 'index').glob('*.npz'))[-1])
    chosen = np.linspace(0, len(index.pngs) - 1, COUNT).astype(int)
    pngs = [index.pngs[i] for i in chosen]
    texts = [next(iter(index.names[i].values())) for i in chosen]
    files = [f'{number}.png' for number in range(COUNT)]
    for name, png in zip(files, pngs):
        (out / name).write_bytes(png)
    model = mural_jax.load(out / 'own')
    about = model.about
    np.savez(
        out / 'examples.npz', pixels=squares(pngs, about.image_size, about.resize),
        tokens=model.tokenizer(texts, about.text_length), image_ND=model.encode_image(pngs),
        text_ND=model.encode_text(texts), texts=json.dumps(texts), files=json.dumps(files),
    )  # fmt: skip


if __name__ == '__main__':
    sys.exit(main())
