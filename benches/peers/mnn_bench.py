#!/usr/bin/env python3
"""Runs MNN on a model that its llmexport.py wrote and prints what llama-bench prints, so that compare.sh can drive it.

Needs MNN from PyPI; -m is the exported config.json. Decode is one call of forward a token, which is as fast as MNN's own
loop (128 and 129 tokens/s on a Zen 4) and ends with no end token.
"""

import argparse
import json
import os
import random
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", required=True, metavar="CONFIG")
    parser.add_argument("-p", type=int, default=512, metavar="TOKENS")
    parser.add_argument("-n", type=int, default=128, metavar="TOKENS")
    parser.add_argument("-t", type=int, required=True, metavar="THREADS")
    parser.add_argument("-r", type=int, default=2, metavar="REPETITIONS")
    parser.add_argument("-o", choices=["json"], default="json")
    return parser.parse_args()


def main():
    a = arguments()
    # MNN writes of its own on the standard output, as soon as it is there.
    out = os.dup(1)
    os.dup2(2, 1)
    import MNN.llm

    model = MNN.llm.create(a.m)
    model.set_config({"thread_num": a.t, "reuse_kv": False})
    model.load()

    def tokens(count):
        return [random.randrange(1000, 40000) for _ in range(count)]

    def row(n_prompt, n_gen, rate):
        rates = [rate() for _ in range(a.r + 1)][1:]  # the first warms up
        return {"build_commit": "MNN", "build_number": "mnn", "n_threads": a.t,
                "n_prompt": n_prompt, "n_gen": n_gen, "avg_ts": sum(rates) / len(rates), "samples_ts": rates}

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

    rows = []
    if a.p:
        rows.append(row(a.p, 0, prefill))
    if a.n:
        rows.append(row(0, a.n, decode))
    os.write(out, json.dumps(rows).encode())


main()
