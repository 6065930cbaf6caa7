#!/usr/bin/env python3
"""Runs OpenVINO GenAI on a GGUF and prints what llama-bench prints, so that compare.sh can drive it.

Needs openvino-genai and openvino-tokenizers. Every prompt is random, as equal ones would come from its prefix cache.
"""

import time

import numpy
import openvino
import openvino_genai

import llama_bench


def main():
    a = llama_bench.arguments(__doc__, "GGUF")
    pipeline = openvino_genai.LLMPipeline(a.m, "CPU", INFERENCE_NUM_THREADS=a.t)
    vocab = len(pipeline.get_tokenizer().get_vocab())
    random = numpy.random.default_rng()

    def generate(prompt, answer):
        """Seconds for `answer` tokens after a prompt of `prompt` tokens."""
        ids = openvino.Tensor(random.integers(0, vocab, (1, prompt), dtype=numpy.int64))
        began = time.perf_counter()
        out = pipeline.generate(ids, max_new_tokens=answer, min_new_tokens=answer, ignore_eos=True, do_sample=False)
        elapsed = time.perf_counter() - began
        if len(out.tokens[0]) != answer:
            raise SystemExit(f"asked for {answer} tokens and got {len(out.tokens[0])}")
        return elapsed, out.perf_metrics.get_ttft().mean / 1e3

    def decode():
        elapsed, first = generate(1, a.n + 1)
        return a.n / (elapsed - first)

    build = (openvino_genai.__version__, "openvino-genai")
    print(llama_bench.report(a, build, lambda: a.p / generate(a.p, 1)[0], decode))


main()
