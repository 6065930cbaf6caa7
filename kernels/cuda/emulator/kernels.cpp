// The kernels, as they are, and their names.
#include "../module.cu"

namespace emulator {

namespace {

using namespace prompt;

#define K(name) {#name, kernel(name)}
const std::unordered_map<std::string, Kernel> all = {
    K(attention_f32_4), K(attention_f16_4), K(attention_int8_4), K(attention_int8_int4_4), K(attention_int4_4),
    K(attention_f32_8), K(attention_f16_8), K(attention_int8_8), K(attention_int8_int4_8), K(attention_int4_8),
    K(attention_merge), K(best_of_parts), K(best_of_rows),
    K(attention_prompt_f16_128_64), K(attention_prompt_f16_128_128), K(attention_prompt_f16_256_64),
    K(attention_prompt_packed_128_64), K(attention_prompt_packed_128_128), K(attention_prompt_packed_256_64),
    K(index_scores_f32), K(index_scores_f16), K(index_scores_int8), K(choose_best),
    K(clip), K(convolve), K(convolve_causal), K(pass_on), K(delta_prepare), K(delta_rule_128),
    K(delta_rule_256), K(delta_settle),
    K(heads_f32), K(heads_f16), K(heads_bf16), K(heads_q8), K(heads_q4), K(heads_q4_asym), K(heads_q4_codebook),
    K(quantize_heads),
    K(glu), K(add), K(scale_and_cap), K(gather),
    K(activate), K(multiply_rows), K(gate_rows), K(scatter), K(join), K(mean), K(temper), K(layer_norm),
    K(rope_axes), K(rope_2d), K(store_int8_int4), K(store_int4),
    K(embed_f32), K(embed_f16), K(embed_bf16), K(embed_q8), K(embed_q4), K(embed_q4_asym), K(embed_q4_codebook),
    K(route), K(sort_choices), K(weigh), K(scaled_norm), K(combine),
    K(matmul_f32_few), K(matmul_f16_few), K(matmul_bf16_few), K(matmul_f16_prompt), K(matmul_bf16_prompt),
    K(matmul_q8_few), K(matmul_q4_few), K(matmul_q4_asym_few), K(matmul_q4_codebook_few),
    K(matmul_q8_prompt), K(matmul_q4_prompt), K(matmul_q4_asym_prompt), K(matmul_q4_codebook_prompt),
    K(probe_read), K(probe_half), K(probe_bytes),
    K(quantize), K(rms_norm), K(rope), K(store_f32), K(store_f16), K(store_int8),
};
#undef K

}  // namespace

const std::unordered_map<std::string, Kernel>& kernels() { return all; }

}  // namespace emulator
