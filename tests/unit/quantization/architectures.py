"""Three architectures as exporters write them: a depthwise CNN, a transformer encoder, and a decoder with a cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from tests.parts import models
from tests.parts.models import Array

ROOT = Path(__file__).parents[3]

WIDTH, HEADS, KEY_HEADS, INNER, WORDS, LAYERS = 32, 4, 2, 64, 64, 2
_SIZE = WIDTH // HEADS
_PAST, _NEW = 4, 3

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Architecture:
    """A model, rows to feed it, and what of it to keep in float by name, by pattern and by operator type.

    `part` are other nodes, for a technique of their own.
    """

    model: ModelProto
    feeds: list[Feeds]
    product: str
    pattern: str
    op_type: str
    part: str


@dataclass
class _Builder:
    """Nodes and weights in the making; channels differ in size and some weights stand out, as in trained models."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(42))

    def add(self, op_type: str, name: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        made = list(outputs) or [f"{name}_output_0"]
        self.nodes.append(helper.make_node(op_type, list(inputs), made, name=name, **attributes))
        return made[0]

    def store(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        if all(tensor.name != name for tensor in self.tensors):
            self.tensors.append(models.tensor(name, values, dtype))
        return name

    def weight(self, name: str, *shape: int) -> str:
        values = self.rng.standard_normal(shape) / np.sqrt(shape[0])
        values *= np.exp(self.rng.normal(0, 0.4, shape[-1]))
        values[self.rng.random(shape) < 0.005] *= 4
        return self.store(name, values)

    def linear(self, name: str, given: str, inputs: int, outputs: int, *, bias: bool = True) -> str:
        found = self.add("MatMul", f"{name}/MatMul", given, self.weight(f"{name}.weight", inputs, outputs))
        if not bias:
            return found
        return self.add("Add", f"{name}/Add", self.store(f"{name}.bias", self.rng.normal(0, 0.1, outputs)), found)

    def whole(self, *values: int) -> str:
        return self.store("ints_" + "_".join(map(str, values)).replace("-", "m"), list(values), np.int64)

    def heads(self, name: str, given: str, count: int) -> str:
        split = self.add("Reshape", f"{name}/Reshape", given, self.whole(0, -1, count, _SIZE))
        return self.add("Transpose", f"{name}/Transpose", split, perm=[0, 2, 1, 3])

    def joined(self, name: str, given: str) -> str:
        back = self.add("Transpose", f"{name}/Transpose_back", given, perm=[0, 2, 1, 3])
        return self.add("Reshape", f"{name}/Reshape_back", back, self.whole(0, -1, WIDTH))

    def attention(self, name: str, query: str, key: str, value: str, mask: str) -> str:
        flipped = self.add("Transpose", f"{name}/Transpose_key", key, perm=[0, 1, 3, 2])
        scores = self.add("MatMul", f"{name}/MatMul_scores", query, flipped)
        scaled = self.add("Div", f"{name}/Div", scores, self.store("root", np.sqrt(_SIZE)))
        masked = self.add("Add", f"{name}/Add_mask", scaled, mask)
        shares = self.add("Softmax", f"{name}/Softmax", masked, axis=-1)
        return self.joined(name, self.add("MatMul", f"{name}/MatMul_mix", shares, value))

    def layer_norm(self, name: str, given: str) -> str:
        scale = self.store(f"{name}.weight", np.exp(self.rng.normal(0, 0.3, WIDTH)))
        bias = self.store(f"{name}.bias", self.rng.normal(0, 0.1, WIDTH))
        return self.add("LayerNormalization", f"{name}/LayerNormalization", given, scale, bias, axis=-1, epsilon=1e-12)

    def gelu(self, name: str, given: str) -> str:
        """Written out, as exporters do below opset 20."""
        halved = self.add("Div", f"{name}/Div", given, self.store("root2", np.sqrt(2)))
        erf = self.add("Erf", f"{name}/Erf", halved)
        more = self.add("Add", f"{name}/Add_one", erf, self.store("one", 1.0))
        product = self.add("Mul", f"{name}/Mul", given, more)
        return self.add("Mul", f"{name}/Mul_half", product, self.store("half", 0.5))

    def rms_norm(self, name: str, given: str) -> str:
        """Written out, with the small addend that half precision takes for zero."""
        square = self.add("Pow", f"{name}/Pow", given, self.store("two", 2.0))
        mean = self.add("ReduceMean", f"{name}/ReduceMean", square, axes=[-1])
        held = self.add("Add", f"{name}/Add", mean, self.store("epsilon", 1e-8))
        root = self.add("Sqrt", f"{name}/Sqrt", held)
        inverse = self.add("Div", f"{name}/Div", self.store("one", 1.0), root)
        normed = self.add("Mul", f"{name}/Mul", given, inverse)
        scale = self.store(f"{name}.weight", np.exp(self.rng.normal(0, 0.3, WIDTH)))
        return self.add("Mul", f"{name}/Mul_weight", scale, normed)

    def rotated(self, name: str, given: str, cosine: str, sine: str) -> str:
        plain = self.add("Mul", f"{name}/Mul_cos", given, cosine)
        ends = [self.whole(0), self.whole(_SIZE // 2), self.whole(_SIZE), self.whole(3)]
        first = self.add("Slice", f"{name}/Slice", given, ends[0], ends[1], ends[3])
        second = self.add("Slice", f"{name}/Slice_1", given, ends[1], ends[2], ends[3])
        turned = self.add("Concat", f"{name}/Concat", self.add("Neg", f"{name}/Neg", second), first, axis=-1)
        return self.add("Add", f"{name}/Add", plain, self.add("Mul", f"{name}/Mul_sin", turned, sine))

    def repeated(self, name: str, given: str) -> str:
        """Each key head for as many query heads as share it."""
        wider = self.add("Unsqueeze", f"{name}/Unsqueeze", given, self.whole(2))
        spread = self.add("Expand", f"{name}/Expand", wider, self.whole(1, 1, HEADS // KEY_HEADS, 1, 1))
        return self.add("Reshape", f"{name}/Reshape_heads", spread, self.whole(0, HEADS, -1, _SIZE))


def cnn() -> Architecture:
    """The shipped MobileNetV2-like classifier on its calibration images."""
    with np.load(ROOT / "examples" / "calibration.npz") as stored:
        images = stored["image"][:24].astype(np.float32)
    model = onnx.load(ROOT / "examples" / "fashion_mobilenet.onnx")
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    rows = [{"image": image[None]} for image in images]
    return Architecture(model, rows, convolutions[2], f"{convolutions[3][:-1]}?", "GlobalAveragePool", convolutions[4])


def encoder() -> Architecture:
    """Token and position embeddings, two layers of attention and Gelu, a pooler: as BERT is exported."""
    build = _Builder()
    words = build.store("embeddings.word", build.rng.normal(0, 1, (WORDS, WIDTH)))
    places = build.store("embeddings.position", build.rng.normal(0, 0.3, (1, 8, WIDTH)))
    found = build.add("Gather", "/embeddings/Gather", words, "input_ids")
    length = build.add("Gather", "/Gather", build.add("Shape", "/Shape", "input_ids"), build.whole(1), axis=0)
    own = build.add("Slice", "/embeddings/Slice", places, build.whole(0), length, build.whole(1))
    found = build.layer_norm("/embeddings/LayerNorm", build.add("Add", "/embeddings/Add", found, own))
    wide = build.add("Unsqueeze", "/Unsqueeze", "attention_mask", build.store("ints_1_2", [1, 2], np.int64))
    kept = build.add("Cast", "/Cast", wide, to=TensorProto.FLOAT)
    gone = build.add("Sub", "/Sub", build.store("one", 1.0), kept)
    mask = build.add("Mul", "/Mul", gone, build.store("lowest", np.finfo(np.float32).min))
    for index in range(LAYERS):
        name = f"/encoder/layer.{index}"
        query, key, value = (
            build.heads(f"{name}/{of}", build.linear(f"{name}/{of}", found, WIDTH, WIDTH), HEADS)
            for of in ("query", "key", "value")
        )
        mixed = build.attention(f"{name}/attention", query, key, value, mask)
        mixed = build.linear(f"{name}/output", mixed, WIDTH, WIDTH)
        found = build.layer_norm(f"{name}/LayerNorm", build.add("Add", f"{name}/Add", mixed, found))
        inner = build.gelu(f"{name}/gelu", build.linear(f"{name}/intermediate", found, WIDTH, INNER))
        inner = build.linear(f"{name}/down", inner, INNER, WIDTH)
        found = build.layer_norm(f"{name}/LayerNorm_1", build.add("Add", f"{name}/Add_1", inner, found))
    build.nodes[-1].output[0] = "last_hidden_state"
    build.store("first", 0, np.int64)
    first = build.add("Gather", "/pooler/Gather", "last_hidden_state", "first", axis=1)
    weight, bias = build.weight("pooler.weight", WIDTH, WIDTH), build.store("pooler.bias", np.zeros(WIDTH))
    build.add("Tanh", "/pooler/Tanh", build.add("Gemm", "/pooler/Gemm", first, weight, bias), outputs=["pooled"])
    model = models.model(
        build.nodes,
        [models.value(name, ["batch", "sequence"], TensorProto.INT64) for name in ("input_ids", "attention_mask")],
        [models.value("last_hidden_state", ["batch", "sequence", WIDTH]), models.value("pooled", ["batch", WIDTH])],
        build.tensors,
    )
    rows = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        mask_row = np.ones((1, 6), np.int64)
        mask_row[0, 6 - seed % 3 :] = 0
        rows.append({"input_ids": rng.integers(0, WORDS, (1, 6)), "attention_mask": mask_row})
    return Architecture(
        model, rows, "/encoder/layer.1/intermediate/MatMul", "/encoder/layer.0/down/*", "Gemm", "/encoder/*/query/*"
    )


def decoder() -> Architecture:
    """RMS norms, rotary embeddings, grouped queries, a key-value cache and a tied head: as Llama is exported."""
    build = _Builder()
    table = build.store("model.embed_tokens.weight", build.rng.normal(0, 1, (WORDS, WIDTH)))
    found = build.add("Gather", "/model/embed_tokens/Gather", table, "input_ids")
    angles = np.outer(np.arange(32), 100.0 ** (-np.arange(_SIZE // 2) / (_SIZE // 2)))
    turns = np.concatenate([angles, angles], axis=1)
    cosine, sine = (
        build.add(
            "Unsqueeze",
            f"/rotary/Unsqueeze_{of}",
            build.add("Gather", f"/rotary/Gather_{of}", build.store(of, values), "position_ids"),
            build.whole(1),
        )
        for of, values in (("cos", np.cos(turns)), ("sin", np.sin(turns)))
    )
    mask = _causal_mask(build)
    presents = []
    for index in range(LAYERS):
        name = f"/model/layers.{index}"
        normed = build.rms_norm(f"{name}/input_layernorm", found)
        query = build.heads(f"{name}/q_proj", build.linear(f"{name}/q_proj", normed, WIDTH, WIDTH, bias=False), HEADS)
        key, value = (
            build.heads(
                f"{name}/{of}", build.linear(f"{name}/{of}", normed, WIDTH, KEY_HEADS * _SIZE, bias=False), KEY_HEADS
            )
            for of in ("k_proj", "v_proj")
        )
        query = build.rotated(f"{name}/rotary_q", query, cosine, sine)
        key = build.rotated(f"{name}/rotary_k", key, cosine, sine)
        for of, new in (("key", key), ("value", value)):
            build.add(
                "Concat", f"{name}/Concat_{of}", f"past.{index}.{of}", new, axis=2, outputs=[f"present.{index}.{of}"]
            )
            presents.append(f"present.{index}.{of}")
        keys, values = (build.repeated(f"{name}/{of}", f"present.{index}.{of}") for of in ("key", "value"))
        mixed = build.attention(f"{name}/attention", query, keys, values, mask)
        mixed = build.linear(f"{name}/o_proj", mixed, WIDTH, WIDTH, bias=False)
        found = build.add("Add", f"{name}/Add", found, mixed)
        normed = build.rms_norm(f"{name}/post_layernorm", found)
        gate = build.linear(f"{name}/gate_proj", normed, WIDTH, INNER, bias=False)
        gate = build.add("Mul", f"{name}/Mul", gate, build.add("Sigmoid", f"{name}/Sigmoid", gate))
        upper = build.linear(f"{name}/up_proj", normed, WIDTH, INNER, bias=False)
        inner = build.add("Mul", f"{name}/Mul_1", gate, upper)
        found = build.add(
            "Add", f"{name}/Add_1", found, build.linear(f"{name}/down_proj", inner, INNER, WIDTH, bias=False)
        )
    normed = build.rms_norm("/model/norm", found)
    head = build.add("Transpose", "/lm_head/Transpose", table, perm=[1, 0])
    build.add("MatMul", "/lm_head/MatMul", normed, head, outputs=["logits"])
    caches = [f"past.{index}.{of}" for index in range(LAYERS) for of in ("key", "value")]
    model = models.model(
        build.nodes,
        [
            models.value("input_ids", ["batch", "sequence"], TensorProto.INT64),
            models.value("attention_mask", ["batch", "total"], TensorProto.INT64),
            models.value("position_ids", ["batch", "sequence"], TensorProto.INT64),
            *(models.value(name, ["batch", KEY_HEADS, "past", _SIZE]) for name in caches),
        ],
        [
            models.value("logits", ["batch", "sequence", WORDS]),
            *(models.value(name, ["batch", KEY_HEADS, "total", _SIZE]) for name in presents),
        ],
        build.tensors,
    )
    rows = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        rows.append(
            {
                "input_ids": rng.integers(0, WORDS, (1, _NEW)),
                "attention_mask": np.ones((1, _PAST + _NEW), np.int64),
                "position_ids": np.arange(_PAST, _PAST + _NEW)[None],
                **{name: rng.standard_normal((1, KEY_HEADS, _PAST, _SIZE)).astype(np.float32) for name in caches},
            }
        )
    return Architecture(
        model, rows, "/model/layers.1/gate_proj/MatMul", "/model/layers.0/down_proj/*", "Gather", "/model/*/q_proj/*"
    )


def _causal_mask(build: _Builder) -> str:
    """Zero where a key is no later than the query and not padded, the lowest number elsewhere: [batch, 1, new, all]."""
    build.store("nought", 0, np.int64)
    build.store("step", 1, np.int64)
    total = build.add("Gather", "/mask/Gather", build.add("Shape", "/mask/Shape", "attention_mask"), build.whole(1))
    count = build.add("Squeeze", "/mask/Squeeze", total, build.whole(0))
    places = build.add("Range", "/mask/Range", "nought", count, "step")
    queries = build.add("Unsqueeze", "/mask/Unsqueeze", "position_ids", build.whole(2))
    seen = build.add("LessOrEqual", "/mask/LessOrEqual", places, queries)
    real = build.add("Cast", "/mask/Cast", "attention_mask", to=TensorProto.BOOL)
    real = build.add("Unsqueeze", "/mask/Unsqueeze_1", real, build.whole(1))
    both = build.add("And", "/mask/And", seen, real)
    lowest = build.store("lowest", np.finfo(np.float32).min)
    mask = build.add("Where", "/mask/Where", both, build.store("zero", 0.0), lowest)
    return build.add("Unsqueeze", "/mask/Unsqueeze_2", mask, build.whole(1))


ARCHITECTURES = {"cnn": cnn, "encoder": encoder, "decoder": decoder}
