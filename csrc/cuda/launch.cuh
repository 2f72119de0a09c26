// How a kernel starts: on the tensor's device, on torch's current stream, without waiting for it.
//
// The same .cu files compile for the host against csrc/tests/emulation (RLHF_EMULATE_CUDA), so a
// kernel starts through launch(), has its shared memory from block_shared(), and uses of CUDA's
// device functions only those that the emulation knows.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "tensor.h"

namespace rlhf::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// The block's shared memory as one T; launch() is given sizeof(T).
template <typename T>
__device__ inline T& block_shared() {
#ifdef RLHF_EMULATE_CUDA
  return *static_cast<T*>(emulation::shared_memory());
#else
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return *reinterpret_cast<T*>(shared_bytes);
#endif
}

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }
__device__ inline int warp_count() { return static_cast<int>(blockDim.x) / kWarpSize; }

// ceil(items / size)
inline int64_t blocks_for(int64_t items, int64_t size) { return (items + size - 1) / size; }

// Where a launch goes.
struct Target {
  explicit Target(const TensorView& view) : device(view.device_index), stream(view.stream) {}
  int device;
  void* stream;
};

#ifdef RLHF_EMULATE_CUDA

template <typename... Params, typename... Args>
void launch(const char*, const Target&, void (*kernel)(Params...), int64_t blocks, int threads,
            size_t shared_bytes, const Args&... args) {
  emulation::run(blocks, threads, shared_bytes, [&] { kernel(args...); });
}

#else

[[noreturn]] inline void fail_launch(const char* op, cudaError_t error) {
  std::string text = std::string(op) + ": CUDA error: " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    text +=
        "; this build has kernels for compute capability 8.0 and up: build rlhf_kernels again on "
        "this machine, or use the CPU";
  }
  throw std::runtime_error(text);
}

// Makes `device` the current one and restores the former.
class DeviceGuard {
 public:
  DeviceGuard(const char* op, int device) : device_(device) {
    const cudaError_t error = cudaGetDevice(&former_);
    if (error != cudaSuccess) fail_launch(op, error);
    if (former_ != device && cudaSetDevice(device) != cudaSuccess) {
      fail_launch(op, cudaGetLastError());
    }
  }
  ~DeviceGuard() {
    if (former_ != device_) cudaSetDevice(former_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int former_ = 0;
};

// `threads` is a whole number of warps; nothing starts for 0 blocks.
template <typename... Params, typename... Args>
void launch(const char* op, const Target& target, void (*kernel)(Params...), int64_t blocks,
            int threads, size_t shared_bytes, const Args&... args) {
  if (blocks == 0) return;
  if (blocks > 0x7fffffff) {
    throw std::invalid_argument(std::string(op) + ": more than 2^31 - 1 blocks; pass fewer rows");
  }
  const DeviceGuard guard(op, target.device);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(target.stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  if (error != cudaSuccess) fail_launch(op, error);
}

#endif

}  // namespace rlhf::cuda
