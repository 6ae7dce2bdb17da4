"""Checks exports in environments that have nothing but their runtime, as their users have.

    python tests/exports/runtimes.py --runs RUN CLIP_RUN --out=DIR

RUN is any run that was evaluated, CLIP_RUN one of `clip:*`. For each format, the script makes an
environment below DIR, installs the runtime, and runs a few lines without mural_jax that encode
examples of both runs (or of CLIP_RUN alone, for formats with fewer architectures). It prints the
lowest cosines of images and of texts with the vectors of `mural_jax.load`. The exit code is 1 if
any is below 0.9999.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mural_jax
from mural_jax.inference.images import load_squares
from mural_jax.search.store import ImageIndex

COUNT, MIN_COSINE = 16, 0.9999
PARITY = ['torch==2.13.0', 'transformers', 'pillow', 'safetensors']
HEAD = """
import json, sys
import numpy as np
folder = sys.argv[1]
examples = np.load(sys.argv[2])
texts = json.loads(str(examples['texts']))
files = json.loads(str(examples['files']))
"""
TAIL = """
for ours, expected in ((image_ND, examples['image_ND']), (text_ND, examples['text_ND'])):
    ours = np.asarray(ours, np.float64)
    print((ours * expected).sum(1).min() / np.linalg.norm(ours, axis=1).max())
assert not any(name.startswith('mural') for name in sys.modules)
"""
# The CUDA build of torchvision lacks these operators beside the CPU build of PyTorch.
OPERATORS = """
import torch
library = torch.library.Library('torchvision', 'FRAGMENT')
for name in ('nms', 'qnms'):
    library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
from PIL import Image
"""


class Runtime(NamedTuple):
    """How a format is used without mural_jax.

    packages: to install. bare: to install without their dependencies. runs: which of --runs it can
    take. code: sets `image_ND` and `text_ND`, between HEAD and TAIL.
    """

    packages: list[str]
    bare: list[str]
    runs: tuple[int, ...]
    code: str


RUNTIMES = {
    'stablehlo': Runtime(
        ['jax', 'flatbuffers'],
        [],
        (0, 1),
        """
from jax import export
def encode(name, inputs):
    with open(f'{folder}/{name}.stablehlo', 'rb') as file:
        return export.deserialize(bytearray(file.read())).call(inputs)
image_ND, text_ND = encode('image', examples['pixels']), encode('text', examples['tokens'])
""",
    ),
    'onnx': Runtime(
        ['onnxruntime'],
        [],
        (0, 1),
        """
import onnxruntime
def encode(name, inputs):
    tower = onnxruntime.InferenceSession(f'{folder}/{name}.onnx')
    return tower.run(None, {tower.get_inputs()[0].name: inputs})[0]
image_ND, text_ND = encode('image', examples['pixels']), encode('text', examples['tokens'])
""",
    ),
    'savedmodel': Runtime(
        ['tensorflow-cpu>=2.21'],
        ['tensorflow-text==2.21.1'],
        (0, 1),
        """
import tensorflow as tf, tensorflow_text
model = tf.saved_model.load(folder)
text_ND = model.signatures['text'](tf.constant(texts))['embedding']
encoded = tf.constant([open(path, 'rb').read() for path in files])
image_ND = model.signatures['image'](encoded)['embedding']
""",
    ),
    'transformers': Runtime(
        PARITY,
        [],
        (1,),
        """
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
""",
    ),
    'open_clip': Runtime(
        [*PARITY, 'open_clip_torch'],
        [],
        (1,),
        OPERATORS
        + """
import open_clip
model, _, process = open_clip.create_model_and_transforms(f'local-dir:{folder}')
tokenize = open_clip.get_tokenizer(f'local-dir:{folder}')
model.eval()
with torch.inference_mode():
    text_ND = model.encode_text(tokenize(texts), normalize=True).numpy()
    pixels = torch.stack([process(Image.open(path).convert('RGB')) for path in files])
    image_ND = model.encode_image(pixels, normalize=True).numpy()
""",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--runs', type=Path, nargs=2, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--formats', nargs='+', default=list(RUNTIMES), choices=RUNTIMES)
    arguments = parser.parse_args()
    worst = 1.0
    for kind in arguments.formats:
        runtime, folder = RUNTIMES[kind], arguments.out / kind
        python = make_environment(folder / 'venv', runtime)
        for run in (arguments.runs[number] for number in runtime.runs):
            image, text = measure_cosines(kind, run, python, folder / run.name)
            print(f'| {kind} | {run.name} | {image:.6f} | {text:.6f} |', flush=True)
            worst = min(worst, image, text)
    return int(worst < MIN_COSINE)


def make_environment(folder: Path, runtime: Runtime) -> Path:
    """Returns the Python of a new environment with a runtime."""
    venv.create(folder, with_pip=True)
    python = folder / 'bin' / 'python'
    pip = [python, '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, 'numpy', *runtime.packages], check=True)
    if runtime.bare:
        subprocess.run([*pip, '--no-deps', *runtime.bare], check=True)
    return python.absolute()


def measure_cosines(kind: str, run: Path, python: Path, out: Path) -> tuple[float, float]:
    """Returns the lowest cosine of images and that of texts."""
    out.mkdir(parents=True)
    export(run, kind, out / 'model')
    export(run, 'safetensors', out / 'own')
    write_examples(run, out)
    (out / 'use.py').write_text(HEAD + RUNTIMES[kind].code + TAIL, encoding='utf-8')
    command = [python, '-W', 'ignore', 'use.py', 'model', 'examples.npz']
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image, text = (float(line) for line in done.stdout.split()[-2:])
    return image, text


def export(run: Path, kind: str, out: Path) -> None:
    """Exports a run by the command line, in a process that has the operators."""
    code = 'import sys\nfrom mural_jax.cli.parser import main\nsys.exit(main(sys.argv[1:]))\n'
    if kind in ('transformers', 'open_clip'):
        code = OPERATORS + code
    words = ['export', f'--workdir={run}', f'--format={kind}', f'--out={out}']
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *words], check=True)


def write_examples(run: Path, out: Path) -> None:
    """Writes images and texts of a run's index, raw and prepared, with their vectors."""
    index = ImageIndex(sorted((run / 'index').iterdir())[-1])
    numbers = np.linspace(0, len(index.rows) - 1, COUNT).astype(int)
    pngs = [index.read_image(i) for i in numbers]
    texts = [next(iter(index.names[i].values())) for i in numbers]
    files = [f'{number}.png' for number in range(COUNT)]
    for name, png in zip(files, pngs):
        (out / name).write_bytes(png)
    model = mural_jax.load(out / 'own')
    description = model.description
    np.savez(
        out / 'examples.npz',
        pixels=load_squares(pngs, description.image_size, description.resize),
        tokens=model.tokenizer(texts, description.text_length),
        image_ND=model.encode_image(pngs),
        text_ND=model.encode_text(texts),
        texts=json.dumps(texts),
        files=json.dumps(files),
    )


if __name__ == '__main__':
    sys.exit(main())
