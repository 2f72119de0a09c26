// The one macro that lets a formula compile for the CPU and for a GPU.
#pragma once

#ifdef __CUDACC__
#define RLHF_HD __host__ __device__ inline
#else
#define RLHF_HD inline
#endif
