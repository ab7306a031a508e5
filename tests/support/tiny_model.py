"""Writes a tiny llama model of random weights as GGUF, so that the real llama-server can serve it on a CPU in a second.

It speaks gibberish; what matters is that the server counts the tokens of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

DIM, HIDDEN, HEADS, LAYERS, CONTEXT = 64, 128, 4, 2, 512
SPECIAL = ["<unk>", "<s>", "</s>"]


def write_tiny_model(path: Path, *, seed: int = 0) -> Path:
    """A llama of 2 layers with a byte vocabulary (about 300 kB) at `path`."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL]
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        values: np.ndarray = random.standard_normal(shape, dtype=np.float32)
        return values / np.float32(np.sqrt(shape[-1]))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
    writer.add_tensor("token_embd.weight", weights(len(tokens), DIM))
    writer.add_tensor("output_norm.weight", np.ones(DIM, dtype=np.float32))
    writer.add_tensor("output.weight", weights(len(tokens), DIM))
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(DIM, DIM))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(DIM, dtype=np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", weights(HIDDEN, DIM))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", weights(HIDDEN, DIM))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(DIM, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    write_tiny_model(parser.parse_args().path)
