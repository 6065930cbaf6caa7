#!/usr/bin/env python3
"""Runs MNN on a model that its llmexport.py wrote and prints what llama-bench prints, so that compare.sh can drive it.

Needs MNN from PyPI; -m is the exported config.json. Decode is one call of forward a token, which is as fast as MNN's own
loop (128 and 129 tokens/s on a Zen 4) and ends with no end token.
"""

import os
import random
import time

import llama_bench


def main():
    a = llama_bench.arguments(__doc__, "CONFIG")
    # MNN writes of its own on the standard output, as soon as it is there.
    out = os.dup(1)
    os.dup2(2, 1)
    import MNN.llm

    model = MNN.llm.create(a.m)
    model.set_config({"thread_num": a.t, "reuse_kv": False})
    model.load()

    def tokens(count):
        return [random.randrange(1000, 40000) for _ in range(count)]

    def prefill():
        model.reset()
        began = time.perf_counter()
        model.generate(tokens(a.p))
        elapsed = time.perf_counter() - began
        context = model.context
        context.refresh()
        if context.prompt_len != a.p:
            raise SystemExit(f"gave {a.p} tokens and {context.prompt_len} were read")
        return a.p / elapsed

    def decode():
        model.reset()
        model.generate(tokens(1))
        began = time.perf_counter()
        for token in tokens(a.n):
            model.forward([token])
        return a.n / (time.perf_counter() - began)

    os.write(out, llama_bench.report(a, ("MNN", "mnn"), prefill, decode).encode())


main()
