// How a kernel starts: on the tensor's device, on torch's current stream, without waiting for it.
//
// The same .cu files compile for the host against csrc/tests/emulation (RLHF_EMULATE_CUDA), so a
// kernel starts through launch(), has its shared memory from block_shared(), and uses of CUDA's
// device functions only those that the emulation knows.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <stdexcept>
#include <string>

#include "tensor.h"

#ifdef __CUDACC__
#define RLHF_UNROLL _Pragma("unroll")
#define RLHF_NOINLINE __noinline__
#else
#define RLHF_UNROLL
#define RLHF_NOINLINE
#endif

namespace rlhf::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// The block's shared memory as one T; launch() is given sizeof(T).
template <typename T>
__device__ inline T& block_shared() {
#ifdef RLHF_EMULATE_CUDA
  return *static_cast<T*>(emulation::shared_memory());
#else
  extern __shared__ __align__(128) unsigned char shared_bytes[];
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

// A launch some of whose blocks run at the same time and may wait for each other (cluster.cuh).
// `threads` is a whole number of warps; nothing starts for 0 blocks.
struct Launch {
  int64_t blocks;
  int threads;
  size_t shared_bytes = 0;
  int group = 1;             // blocks of a cluster, at most 16, a divisor of `blocks`; from 9.0 on
  bool cooperative = false;  // all blocks: no more than resident_blocks()
};

#ifdef RLHF_EMULATE_CUDA

template <typename... Params, typename... Args>
void launch(const char*, const Target&, void (*kernel)(Params...), int64_t blocks, int threads,
            size_t shared_bytes, const Args&... args) {
  emulation::run({blocks, threads, shared_bytes}, [&] { kernel(args...); });
}

template <typename... Params, typename... Args>
void launch_group(const char*, const Target&, void (*kernel)(Params...), const Launch& launch,
                  const Args&... args) {
  emulation::run(
      {launch.blocks, launch.threads, launch.shared_bytes, launch.group, launch.cooperative},
      [&] { kernel(args...); });
}

// 10 * major + minor of the compute capability.
inline int compute_capability(const char*, const Target&) { return emulation::device().capability; }

// How many blocks of a kernel the device holds at once.
template <typename... Params>
int64_t resident_blocks(const char*, const Target&, void (*)(Params...), int, size_t) {
  return emulation::device().resident_blocks;
}

// The largest cluster of a kernel's blocks that the device holds, 16 or 8; 0 before 9.0.
template <typename... Params>
int largest_group(const char*, const Target&, void (*)(Params...), int, size_t) {
  return emulation::device().capability >= 90 ? emulation::device().largest_group : 0;
}

// A test may change the pretended device, so nothing is kept.
class PerDevice {
 public:
  template <typename Ask>
  int64_t of(const Target&, const Ask& ask) {
    return ask();
  }
};

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

constexpr size_t kDefaultSharedBytes = 48 * 1024;
constexpr int kPortableGroup = 8;

// What a kernel must be told before a launch asks for much shared memory or a large cluster.
template <typename... Params>
void allow(const char* op, void (*kernel)(Params...), size_t shared_bytes, int group) {
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kDefaultSharedBytes) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess && group > kPortableGroup) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error != cudaSuccess) fail_launch(op, error);
}

// A launch in the runtime's words.
struct LaunchConfig {
  LaunchConfig(const Launch& launch, cudaStream_t stream) {
    config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
    config.blockDim = dim3(static_cast<unsigned>(launch.threads));
    config.dynamicSmemBytes = launch.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (launch.group > 1) {
      cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = static_cast<unsigned>(launch.group);
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    }
    if (launch.cooperative) {
      cudaLaunchAttribute& whole = attributes[config.numAttrs++];
      whole.id = cudaLaunchAttributeCooperative;
      whole.val.cooperative = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
};

template <typename... Params, typename... Args>
void launch_group(const char* op, const Target& target, void (*kernel)(Params...),
                  const Launch& launch, const Args&... args) {
  if (launch.blocks == 0) return;
  if (launch.blocks > 0x7fffffff) {
    throw std::invalid_argument(std::string(op) + ": more than 2^31 - 1 blocks; pass fewer rows");
  }
  const DeviceGuard guard(op, target.device);
  allow(op, kernel, launch.shared_bytes, launch.group);
  LaunchConfig config(launch, static_cast<cudaStream_t>(target.stream));
  const cudaError_t error =
      cudaLaunchKernelEx(&config.config, kernel, static_cast<Params>(args)...);
  if (error != cudaSuccess) fail_launch(op, error);
}

template <typename... Params, typename... Args>
void launch(const char* op, const Target& target, void (*kernel)(Params...), int64_t blocks,
            int threads, size_t shared_bytes, const Args&... args) {
  launch_group(op, target, kernel, Launch{blocks, threads, shared_bytes}, args...);
}

inline int device_attribute(const char* op, cudaDeviceAttr attribute, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error != cudaSuccess) fail_launch(op, error);
  return value;
}

inline int compute_capability(const char* op, const Target& target) {
  return 10 * device_attribute(op, cudaDevAttrComputeCapabilityMajor, target.device) +
         device_attribute(op, cudaDevAttrComputeCapabilityMinor, target.device);
}

template <typename... Params>
int64_t resident_blocks(const char* op, const Target& target, void (*kernel)(Params...),
                        int threads, size_t shared_bytes) {
  const DeviceGuard guard(op, target.device);
  allow(op, kernel, shared_bytes, 1);
  int per_processor = 0;
  const cudaError_t error =
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, threads, shared_bytes);
  if (error != cudaSuccess) fail_launch(op, error);
  return static_cast<int64_t>(per_processor) *
         device_attribute(op, cudaDevAttrMultiProcessorCount, target.device);
}

template <typename... Params>
int largest_group(const char* op, const Target& target, void (*kernel)(Params...), int threads,
                  size_t shared_bytes) {
  if (compute_capability(op, target) < 90) return 0;
  const DeviceGuard guard(op, target.device);
  for (int group = 2 * kPortableGroup; group >= kPortableGroup; group /= 2) {
    allow(op, kernel, shared_bytes, group);
    LaunchConfig config({group, threads, shared_bytes, group}, nullptr);
    int clusters = 0;
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config.config);
    if (error == cudaSuccess && clusters > 0) return group;
    cudaGetLastError();  // a size that does not fit is an answer, not a failure
  }
  return 0;
}

// What is asked of each device once, since the answer costs microseconds.
class PerDevice {
 public:
  template <typename Ask>
  int64_t of(const Target& target, const Ask& ask) {
    if (target.device >= kMost) return ask();
    std::atomic<int64_t>& kept = known_[target.device];
    int64_t value = kept.load(std::memory_order_relaxed);
    if (value == 0) {
      value = ask() + 1;
      kept.store(value, std::memory_order_relaxed);
    }
    return value - 1;
  }

 private:
  static constexpr int kMost = 64;
  std::atomic<int64_t> known_[kMost] = {};
};

#endif

}  // namespace rlhf::cuda
