#!/usr/bin/env python3
"""Runs OpenVINO GenAI on a GGUF and prints what llama-bench prints, so that compare.sh can drive it.

Needs openvino-genai and openvino-tokenizers. Every prompt is random, as equal ones would come from its prefix cache.
"""

import argparse
import json
import time

import numpy
import openvino
import openvino_genai


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", required=True, metavar="GGUF")
    parser.add_argument("-p", type=int, default=512, metavar="TOKENS")
    parser.add_argument("-n", type=int, default=128, metavar="TOKENS")
    parser.add_argument("-t", type=int, required=True, metavar="THREADS")
    parser.add_argument("-r", type=int, default=2, metavar="REPETITIONS")
    parser.add_argument("-o", choices=["json"], default="json")
    return parser.parse_args()


def main():
    a = arguments()
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

    def row(n_prompt, n_gen, rate):
        rates = [rate() for _ in range(a.r + 1)][1:]  # the first warms up
        return {"build_commit": openvino_genai.__version__, "build_number": "openvino-genai", "n_threads": a.t,
                "n_prompt": n_prompt, "n_gen": n_gen, "avg_ts": sum(rates) / len(rates), "samples_ts": rates}

    def decode():
        elapsed, first = generate(1, a.n + 1)
        return a.n / (elapsed - first)

    rows = []
    if a.p:
        rows.append(row(a.p, 0, lambda: a.p / generate(a.p, 1)[0]))
    if a.n:
        rows.append(row(0, a.n, decode))
    print(json.dumps(rows))


main()
