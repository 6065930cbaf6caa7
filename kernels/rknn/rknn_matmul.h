/*
 * What is called here of Rockchip's matmul interface, version 2 of librknnrt: names, numbers and the order of fields,
 * as a caller of the library needs them, and nothing else of its headers, which are under a licence of their own.
 *
 * scripts/rknn.sh makes kernels/src/rknn/sys.rs of this file with bindgen, and compares it with Rockchip's headers where
 * it is given a folder with them.
 */
#include <stdint.h>

#define RKNN_MAX_DIMS 16
#define RKNN_MAX_NAME_LEN 256

typedef uint64_t rknn_context;
typedef rknn_context rknn_matmul_ctx;

/* Of a tensor's element; others are not met here. */
typedef enum _rknn_tensor_type {
  RKNN_TENSOR_INT8 = 2,
  RKNN_TENSOR_INT32 = 6,
} rknn_tensor_type;

typedef enum _rknn_matmul_type {
  RKNN_INT8_MM_INT8_TO_INT32 = 2,
} rknn_matmul_type;

typedef enum _rknn_core_mask {
  RKNN_NPU_CORE_0 = 1,
  RKNN_NPU_CORE_1 = 2,
  RKNN_NPU_CORE_2 = 4,
} rknn_core_mask;

typedef enum _rknn_mem_sync_mode {
  RKNN_MEMORY_SYNC_TO_DEVICE = 1,
  RKNN_MEMORY_SYNC_FROM_DEVICE = 2,
} rknn_mem_sync_mode;

typedef struct _rknn_tensor_memory {
  void *virt_addr;
  uint64_t phys_addr;
  int32_t fd;
  int32_t offset;
  uint32_t size; /* bytes */
  uint32_t flags;
  void *priv_data;
} rknn_tensor_mem;

typedef struct _rknn_matmul_tensor_attr {
  char name[RKNN_MAX_NAME_LEN];
  uint32_t n_dims;
  uint32_t dims[RKNN_MAX_DIMS];
  uint32_t size; /* bytes */
  rknn_tensor_type type;
} rknn_matmul_tensor_attr;

typedef struct _rknn_matmul_io_attr {
  rknn_matmul_tensor_attr A;
  rknn_matmul_tensor_attr B;
  rknn_matmul_tensor_attr C;
} rknn_matmul_io_attr;

/* C, (M, N), is A, (M, K), by B, (K, N). */
typedef struct rknn_matmul_info_t {
  int32_t M;
  int32_t K;
  int32_t N;
  rknn_matmul_type type;
  int16_t B_layout;  /* 1: native */
  int16_t B_quant_type;
  int16_t AC_layout; /* 1: native */
  int16_t AC_quant_type;
  int32_t iommu_domain_id;
  int16_t group_size;
  int8_t reserved[34];
} rknn_matmul_info;

/* Functions that give an int give 0, or a negative error. */
int rknn_matmul_create(rknn_matmul_ctx *ctx, rknn_matmul_info *info, rknn_matmul_io_attr *io_attr);
int rknn_matmul_set_io_mem(rknn_matmul_ctx ctx, rknn_tensor_mem *mem, rknn_matmul_tensor_attr *attr);
int rknn_matmul_set_core_mask(rknn_matmul_ctx context, rknn_core_mask core_mask);
int rknn_matmul_run(rknn_matmul_ctx ctx);
int rknn_matmul_destroy(rknn_matmul_ctx ctx);
rknn_tensor_mem *rknn_create_mem(rknn_context ctx, uint32_t size);
int rknn_destroy_mem(rknn_context ctx, rknn_tensor_mem *mem);
int rknn_mem_sync(rknn_context context, rknn_tensor_mem *mem, rknn_mem_sync_mode mode);
