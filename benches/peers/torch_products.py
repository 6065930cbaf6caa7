"""What PyTorch makes of the same products on the same GPU: torch._weight_int4pack_mm, torch.matmul in f16, a copy.

python3 torch_products.py [--quick] prints a table. Times are medians of CUDA events; products of a few rows run as a CUDA graph over
copies of the weights that no cache holds, as muse-products does.
"""

import statistics
import sys

import torch

TURN_BYTES = 512 << 20
OPERATIONS = 256
ROUNDS = 7
GROUP = 32
SHAPES = [
    ("qwen3-4b", [("q, k, v", 6144, 2560), ("o", 2560, 4096), ("gate, up", 19456, 2560), ("down", 2560, 9728)]),
    ("muse-glimmer-30b", [("q, k, v", 4608, 6656), ("o", 6656, 4096), ("gate, up", 39936, 6656), ("down", 6656, 19968)]),
]


def seconds(run):
    times = []
    for counted in range(ROUNDS + 1):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        torch.cuda.synchronize()
        if counted:
            times.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(times)


def captured(run):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def int4(rows, cols):
    """Weights in the packing that _weight_int4pack_mm takes, with scales and zeros of each group."""
    nibbles = torch.randint(0, 256, (rows, cols // 2), dtype=torch.uint8, device="cuda")
    packed = torch._convert_weight_to_int4pack(nibbles, 8)
    scales = torch.rand(cols // GROUP, rows, 2, dtype=torch.bfloat16, device="cuda")
    return packed, scales


def half(rows, cols):
    return torch.randn(cols, rows, dtype=torch.float16, device="cuda")


def products(name, make, multiply, dtype, bytes_of, tokens, shapes):
    for shape, matrices in shapes:
        for operation, rows, cols in matrices:
            try:
                size = bytes_of(rows, cols)
                few = tokens <= 8
                copies = max(2, min(OPERATIONS, TURN_BYTES // size)) if few else 1
                operations = max(copies, min(OPERATIONS, 8 * TURN_BYTES // size)) if few else 4
                weights = [make(rows, cols) for _ in range(copies)]
                x = torch.randn(tokens, cols, dtype=dtype, device="cuda")

                def run():
                    for i in range(operations):
                        multiply(x, weights[i % copies])

                run()
                time = seconds(captured(run) if few else run) / operations
                print(f"{name:<10}{shape:<17}{operation:<10}{tokens:>5}{1e6 * time:>10.1f} us{size / time / 1e9:>9.1f} GB/s"
                      f"{2 * tokens * rows * cols / time / 1e12:>8.1f} T/s", flush=True)
            except (RuntimeError, AttributeError, torch.cuda.OutOfMemoryError) as error:
                print(f"{name:<10}{shape:<17}{operation:<10}{tokens:>5}  {str(error).splitlines()[0]}", flush=True)


def main():
    shapes = SHAPES[:1] if "--quick" in sys.argv else SHAPES
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    torch.manual_seed(1)

    def packed(x, weight):
        return torch._weight_int4pack_mm(x, weight[0], GROUP, weight[1])

    for tokens in (1, 8, 2048):
        products("int4pack", int4, packed, torch.bfloat16, lambda r, c: r * c // 2 + r * c // GROUP * 4, tokens, shapes)
        products("f16", half, torch.matmul, torch.float16, lambda r, c: 2 * r * c, tokens, shapes)
    source = torch.randint(-128, 127, (1 << 30,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    time = seconds(lambda: target.copy_(source))
    print(f"copy of 1 GiB on the device: {2 * source.numel() / time / 1e9:.0f} GB/s, read and written")


if __name__ == "__main__":
    main()
