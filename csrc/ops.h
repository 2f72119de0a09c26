// Every native op: inputs, scalars, then the outputs that the caller allocated.
// Each function checks its arguments and throws std::invalid_argument naming the bad one.
#pragma once

#include <optional>
#include <string>

#include "arguments.h"
#include "tensor.h"

namespace rlhf::ops {

using OptionalView = std::optional<TensorView>;

// A trailing `workspace` is what workspace_size() asks for; absent on the CPU.

// token_kl
void token_kl(const TensorView& logprobs, const TensorView& ref_logprobs,
              const std::string& estimator, const TensorView& out);
void token_kl_backward(const TensorView& grad_out, const TensorView& logprobs,
                       const TensorView& ref_logprobs, const std::string& estimator,
                       const TensorView& grad_logprobs);

// ppo_loss
void ppo_loss(const TensorView& logprobs, const TensorView& old_logprobs,
              const TensorView& advantages, const TensorView& mask, double cliprange,
              const OptionalView& denominator, const TensorView& loss, const TensorView& stats,
              const TensorView& token_grad, const TensorView& scale, const OptionalView& workspace);

// value_loss
void value_loss(const TensorView& values, const TensorView& old_values, const TensorView& returns,
                const TensorView& mask, double cliprange_value, const OptionalView& denominator,
                const TensorView& loss, const TensorView& stats, const TensorView& token_grad,
                const TensorView& scale, const OptionalView& workspace);

// The gradient of a loss whose forward left `grad`, not yet divided: grad * (upstream * scale).
void loss_gradient(const TensorView& grad, const TensorView& upstream, const TensorView& scale,
                   const TensorView& out);

// shaped_rewards
void shaped_rewards(const TensorView& scores, const TensorView& logprobs,
                    const TensorView& ref_logprobs, const TensorView& mask, double kl_coef,
                    const std::string& estimator, const TensorView& rewards);

// gae
void gae(const TensorView& rewards, const TensorView& values, const TensorView& mask, double gamma,
         double lam, bool whiten_advantages, const TensorView& advantages,
         const TensorView& returns, const OptionalView& workspace);

// advantages: shaped_rewards and gae in one
void advantages(const TensorView& scores, const TensorView& logprobs,
                const TensorView& ref_logprobs, const TensorView& values, const TensorView& mask,
                double kl_coef, const std::string& estimator, double gamma, double lam,
                bool whiten_advantages, const TensorView& advantages, const TensorView& returns,
                const TensorView& rewards, const OptionalView& workspace);

// whiten
void whiten(const TensorView& x, const TensorView& mask, bool shift_mean, const TensorView& out,
            const OptionalView& workspace);

// ranking_loss
void ranking_loss(const TensorView& scores, const TensorView& ranks,
                  const TensorView& group_offsets, const std::string& ties,
                  const OptionalView& denominator, const TensorView& loss, const TensorView& stats,
                  const TensorView& score_grad, const TensorView& scale,
                  const OptionalView& workspace);

// gather_logprobs
void gather_logprobs(const TensorView& logits, const TensorView& targets, const OptionalView& mask,
                     const OptionalView& temperatures, double temperature,
                     const TensorView& logprobs, const TensorView& entropy,
                     const TensorView& logsumexp, const TensorView& rows);
void gather_logprobs_backward(const TensorView& grad_logprobs, const TensorView& grad_entropy,
                              const TensorView& grad_logsumexp, const TensorView& logits,
                              const TensorView& targets, const TensorView& rows,
                              const TensorView& grad_logits);

// ppo_loss_from_logits: the trailing underscore replaces the logits by the gradient
struct PolicyTensors {
  TensorView logits;
  TensorView targets;
  TensorView old_logprobs;
  TensorView advantages;
  TensorView mask;
  OptionalView ref_logprobs;
  OptionalView ref_logits;
  OptionalView ptx_mask;
  OptionalView temperatures;
  OptionalView denominator;
  OptionalView ptx_denominator;
};
struct PolicyScalars {
  double temperature;
  double cliprange;
  double entropy_coef;
  double kl_coef;
  double ptx_coef;
  std::string kl_estimator;
};
void ppo_loss_from_logits(const PolicyTensors& tensors, const PolicyScalars& scalars,
                          const TensorView& loss, const TensorView& stats, const TensorView& rows,
                          const OptionalView& workspace);
void ppo_loss_from_logits_(const PolicyTensors& tensors, const PolicyScalars& scalars,
                           const TensorView& loss, const TensorView& stats, const TensorView& rows,
                           const OptionalView& workspace);
void ppo_loss_from_logits_backward(const TensorView& logits, const OptionalView& ref_logits,
                                   const TensorView& targets, const TensorView& rows,
                                   const TensorView& upstream, const TensorView& grad_logits);
void ppo_loss_from_logits_scale_(const TensorView& grad, const TensorView& rows,
                                 const TensorView& upstream);

// causal_attention
void causal_attention(const TensorView& query, const TensorView& key, const TensorView& value,
                      double scale, const TensorView& out);
void causal_attention_backward(const TensorView& grad_out, const TensorView& query,
                               const TensorView& key, const TensorView& value, double scale,
                               const TensorView& grad_query, const TensorView& grad_key,
                               const TensorView& grad_value);

// feed_forward, self_attention
void feed_forward(const FeedForwardInputs& inputs, const TensorView& out, const TensorView& inner);
void feed_forward_backward(const TensorView& grad_out, const FeedForwardInputs& inputs,
                           const TensorView& inner, const FeedForwardGradients& grads);
void self_attention(const SelfAttentionInputs& inputs, const TensorView& out,
                    const TensorView& states, const TensorView& attended);
void self_attention_backward(const TensorView& grad_out, const SelfAttentionInputs& inputs,
                             const TensorView& states, const TensorView& attended,
                             const SelfAttentionGradients& grads);

// decoder_layers
void decoder_layers(const DecoderLayersInputs& inputs, const TensorView& out);

// gelu_tanh
void gelu_tanh(const TensorView& x, const TensorView& out);
void gelu_tanh_backward(const TensorView& grad_out, const TensorView& x, const TensorView& grad_x);

// exact_kl
void exact_kl(const TensorView& logits, const TensorView& ref_logits, const OptionalView& mask,
              const OptionalView& temperatures, double temperature, const TensorView& kl,
              const TensorView& rows);
void exact_kl_backward(const TensorView& grad_kl, const TensorView& logits,
                       const TensorView& ref_logits, const TensorView& kl, const TensorView& rows,
                       const TensorView& grad_logits);

// Benchmarks: reads the float32 `tensor` once on its CUDA device; `out` is left as it is.
void read_probe(const TensorView& tensor, const TensorView& out);

// Whether this build has CUDA kernels.
bool has_cuda();

// The float64 entries that `op` needs as its last argument, `workspace`, for `items` tokens, rows
// or groups on the device of `first`; 0 on the CPU, where it is not read.
int64_t workspace_size(const std::string& op, const TensorView& first, int64_t items);

// sample
void sample(const TensorView& logits, const TensorView& row_ids, const TensorView& positions,
            const OptionalView& temperatures, double temperature, int64_t seed, int64_t top_k,
            double top_p, const TensorView& tokens, const TensorView& logprobs,
            const TensorView& truncated_logprobs, const TensorView& entropy);

// The instruction set of the row kernels on this machine: "avx512", "avx2" or "baseline".
const char* current_isa();

}  // namespace rlhf::ops
