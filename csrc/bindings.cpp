// Python objects to TensorView, and one m.def per op.
//
// A tensor crosses through torch's DLPack C exchange table (torch.Tensor.
// __dlpack_c_exchange_api__): no copy, no capsule, no torch header. Casting happens with the GIL
// held; the call itself runs without it.
#include <dlpack.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops.h"

namespace py = pybind11;

namespace rlhf {
namespace {

const DLPackExchangeAPI* load_exchange_api() {
  py::object type = py::module_::import("torch").attr("Tensor");
  py::object capsule = type.attr("__dlpack_c_exchange_api__");
  void* pointer = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (pointer == nullptr) throw py::error_already_set();
  auto* api = static_cast<const DLPackExchangeAPI*>(pointer);
  if (api->header.version.major != DLPACK_MAJOR_VERSION || !api->dltensor_from_py_object_no_sync ||
      !api->current_work_stream) {
    throw std::runtime_error(
        "this torch speaks another DLPack exchange version; install torch>=2.11");
  }
  return api;
}

const DLPackExchangeAPI* exchange_api() {
  static const DLPackExchangeAPI* api = load_exchange_api();
  return api;
}

DType to_dtype(const DLDataType& type) {
  const int code = type.code;
  if (type.lanes == 1) {
    if (code == kDLFloat && type.bits == 32) return DType::kFloat32;
    if (code == kDLFloat && type.bits == 64) return DType::kFloat64;
    if (code == kDLBfloat && type.bits == 16) return DType::kBFloat16;
    if (code == kDLFloat && type.bits == 16) return DType::kFloat16;
    if (code == kDLInt && type.bits == 32) return DType::kInt32;
    if (code == kDLInt && type.bits == 64) return DType::kInt64;
    if (code == kDLBool && type.bits == 8) return DType::kBool;
  }
  throw std::invalid_argument(
      "rlhf_kernels: a tensor's dtype must be float32, bfloat16, float16, float64, int32, int64 or "
      "bool");
}

void* current_stream(int device_index) {
  void* stream = nullptr;
  if (exchange_api()->current_work_stream(kDLCUDA, device_index, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

#ifdef RLHF_EMULATE_CUDA
// While true, CPU tensors count as CUDA tensors: the tests' way to the emulated kernels.
bool emulating = false;
#endif

TensorView to_view(PyObject* object) {
  DLTensor tensor;
  if (exchange_api()->dltensor_from_py_object_no_sync(object, &tensor) != 0) {
    throw py::error_already_set();
  }
  TensorView view;
  const int kind = tensor.device.device_type;
  if (kind != kDLCPU && kind != kDLCUDAHost && kind != kDLCUDA) {
    throw std::invalid_argument("rlhf_kernels: tensors must be on the CPU or a CUDA device");
  }
  if (tensor.ndim > kMaxDims) {
    throw std::invalid_argument("rlhf_kernels: tensors may have at most 8 dimensions");
  }
  view.device = kind == kDLCUDA ? Device::kCuda : Device::kCpu;
  view.device_index = kind == kDLCUDA ? tensor.device.device_id : 0;
  if (kind == kDLCUDA) view.stream = current_stream(view.device_index);
  view.dtype = to_dtype(tensor.dtype);
  view.ndim = tensor.ndim;
  int64_t dense = 1;
  for (int dim = tensor.ndim - 1; dim >= 0; --dim) {
    view.shape[dim] = tensor.shape[dim];
    view.strides[dim] = tensor.strides ? tensor.strides[dim] : dense;
    dense *= tensor.shape[dim];
  }
  // Fake, meta and wrapper tensors have a shape but no memory.
  if (tensor.data == nullptr && view.numel() > 0) {
    throw std::invalid_argument("rlhf_kernels: a tensor without memory (fake or meta) was passed");
  }
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
#ifdef RLHF_EMULATE_CUDA
  if (emulating) view.device = Device::kCuda;
#endif
  return view;
}

}  // namespace
}  // namespace rlhf

namespace pybind11::detail {

template <>
struct type_caster<rlhf::TensorView> {
  PYBIND11_TYPE_CASTER(rlhf::TensorView, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    static const handle tensor_type = object(module_::import("torch").attr("Tensor")).release();
    if (!isinstance(source, tensor_type)) return false;
    value = rlhf::to_view(source.ptr());
    return true;
  }
};

}  // namespace pybind11::detail

namespace rlhf {
namespace {

using PolicyKernel = void (*)(const ops::PolicyTensors&, const ops::PolicyScalars&,
                              const TensorView&, const TensorView&, const TensorView&,
                              const ops::OptionalView&);
using ops::OptionalView;

// The flat argument list of the operator's schema as the two structs of ops.h.
auto flatten(PolicyKernel kernel) {
  return
      [kernel](const TensorView& logits, const TensorView& targets, const TensorView& old_logprobs,
               const TensorView& advantages, const TensorView& mask,
               const OptionalView& ref_logprobs, const OptionalView& ref_logits,
               const OptionalView& ptx_mask, const OptionalView& temperatures,
               const OptionalView& denominator, const OptionalView& ptx_denominator,
               double temperature, double cliprange, double entropy_coef, double kl_coef,
               double ptx_coef, const std::string& kl_estimator, const TensorView& loss,
               const TensorView& stats, const TensorView& rows, const OptionalView& workspace) {
        kernel({logits, targets, old_logprobs, advantages, mask, ref_logprobs, ref_logits, ptx_mask,
                temperatures, denominator, ptx_denominator},
               {temperature, cliprange, entropy_coef, kl_coef, ptx_coef, kl_estimator}, loss, stats,
               rows, workspace);
      };
}

// The halves of a layer, whose tensors ops.h takes as structs.
void call_feed_forward(const TensorView& hidden, const OptionalView& rows,
                       const TensorView& norm_weight, const TensorView& norm_bias,
                       const TensorView& up_weight, const TensorView& up_bias,
                       const TensorView& down_weight, const TensorView& down_bias, double eps,
                       bool lowered, const TensorView& out, const TensorView& inner) {
  ops::feed_forward({hidden, rows, norm_weight, norm_bias, up_weight, up_bias, down_weight,
                     down_bias, eps, lowered},
                    out, inner);
}

void call_feed_forward_backward(const TensorView& grad_out, const TensorView& inner,
                                const TensorView& hidden, const OptionalView& rows,
                                const TensorView& norm_weight, const TensorView& norm_bias,
                                const TensorView& up_weight, const TensorView& up_bias,
                                const TensorView& down_weight, const TensorView& down_bias,
                                double eps, bool lowered, const TensorView& grad_hidden,
                                const TensorView& grad_norm_weight,
                                const TensorView& grad_norm_bias, const TensorView& grad_up_weight,
                                const TensorView& grad_up_bias, const TensorView& grad_down_weight,
                                const TensorView& grad_down_bias) {
  ops::feed_forward_backward(grad_out,
                             {hidden, rows, norm_weight, norm_bias, up_weight, up_bias, down_weight,
                              down_bias, eps, lowered},
                             inner,
                             {grad_hidden, grad_norm_weight, grad_norm_bias, grad_up_weight,
                              grad_up_bias, grad_down_weight, grad_down_bias});
}

void call_self_attention(const TensorView& hidden, const TensorView& norm_weight,
                         const TensorView& norm_bias, const TensorView& in_weight,
                         const TensorView& in_bias, const TensorView& out_weight,
                         const TensorView& out_bias, int64_t heads, double scale, double eps,
                         bool lowered, const TensorView& out, const TensorView& states,
                         const TensorView& attended) {
  ops::self_attention({hidden, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias,
                       heads, scale, eps, lowered},
                      out, states, attended);
}

void call_self_attention_backward(const TensorView& grad_out, const TensorView& states,
                                  const TensorView& attended, const TensorView& hidden,
                                  const TensorView& norm_weight, const TensorView& norm_bias,
                                  const TensorView& in_weight, const TensorView& in_bias,
                                  const TensorView& out_weight, const TensorView& out_bias,
                                  int64_t heads, double scale, double eps, bool lowered,
                                  const TensorView& grad_hidden, const TensorView& grad_norm_weight,
                                  const TensorView& grad_norm_bias,
                                  const TensorView& grad_in_weight, const TensorView& grad_in_bias,
                                  const TensorView& grad_out_weight,
                                  const TensorView& grad_out_bias) {
  ops::self_attention_backward(grad_out,
                               {hidden, norm_weight, norm_bias, in_weight, in_bias, out_weight,
                                out_bias, heads, scale, eps, lowered},
                               states, attended,
                               {grad_hidden, grad_norm_weight, grad_norm_bias, grad_in_weight,
                                grad_in_bias, grad_out_weight, grad_out_bias});
}

// Whole layers: lists of tensors, then as above.
void call_decoder_layers(const TensorView& hidden, const std::vector<TensorView>& weights,
                         const std::vector<TensorView>& keys, const std::vector<TensorView>& values,
                         const OptionalView& rows, const OptionalView& starts, int64_t used,
                         int64_t heads, double scale, double eps, bool lowered,
                         const TensorView& out) {
  ops::decoder_layers(
      {hidden, weights, keys, values, rows, starts, used, heads, scale, eps, lowered}, out);
}

}  // namespace
}  // namespace rlhf

PYBIND11_MODULE(_C, m) {
  using namespace rlhf;
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  m.doc() = "Native kernels; call them through rlhf_kernels.";
  m.def("token_kl", &ops::token_kl, Unlocked());
  m.def("token_kl_backward", &ops::token_kl_backward, Unlocked());
  m.def("ppo_loss", &ops::ppo_loss, Unlocked());
  m.def("value_loss", &ops::value_loss, Unlocked());
  m.def("loss_gradient", &ops::loss_gradient, Unlocked());
  m.def("shaped_rewards", &ops::shaped_rewards, Unlocked());
  m.def("gae", &ops::gae, Unlocked());
  m.def("advantages", &ops::advantages, Unlocked());
  m.def("whiten", &ops::whiten, Unlocked());
  m.def("ranking_loss", &ops::ranking_loss, Unlocked());
  m.def("gather_logprobs", &ops::gather_logprobs, Unlocked());
  m.def("gather_logprobs_backward", &ops::gather_logprobs_backward, Unlocked());
  // In place: the gradient overwrites the logits, which the row kernels read before they write.
  m.def(
      "gather_logprobs_backward_",
      [](const TensorView& grad_logprobs, const TensorView& grad_entropy,
         const TensorView& grad_logsumexp, const TensorView& logits, const TensorView& targets,
         const TensorView& rows) {
        ops::gather_logprobs_backward(grad_logprobs, grad_entropy, grad_logsumexp, logits, targets,
                                      rows, logits);
      },
      Unlocked());
  m.def("ppo_loss_from_logits", flatten(&ops::ppo_loss_from_logits), Unlocked());
  m.def("ppo_loss_from_logits_", flatten(&ops::ppo_loss_from_logits_), Unlocked());
  m.def("ppo_loss_from_logits_backward", &ops::ppo_loss_from_logits_backward, Unlocked());
  m.def("ppo_loss_from_logits_scale_", &ops::ppo_loss_from_logits_scale_, Unlocked());
  m.def("exact_kl", &ops::exact_kl, Unlocked());
  m.def("exact_kl_backward", &ops::exact_kl_backward, Unlocked());
  m.def("causal_attention", &ops::causal_attention, Unlocked());
  m.def("causal_attention_backward", &ops::causal_attention_backward, Unlocked());
  m.def("decoder_layers", &call_decoder_layers, Unlocked());
  m.def("feed_forward", &call_feed_forward, Unlocked());
  m.def("feed_forward_backward", &call_feed_forward_backward, Unlocked());
  m.def("gelu_tanh", &ops::gelu_tanh, Unlocked());
  m.def("gelu_tanh_backward", &ops::gelu_tanh_backward, Unlocked());
  m.def("sample", &ops::sample, Unlocked());
  m.def("self_attention", &call_self_attention, Unlocked());
  m.def("self_attention_backward", &call_self_attention_backward, Unlocked());
  m.def("current_isa", &ops::current_isa);
  m.def("has_cuda", &ops::has_cuda);
  m.def("read_probe", &ops::read_probe, Unlocked());
  m.def("workspace_size", &ops::workspace_size);
#ifdef RLHF_EMULATE_CUDA
  m.def("emulate", [](bool on) { emulating = on; });
#endif
}
