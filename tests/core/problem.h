#pragma once
#include <cstring>
#include <initializer_list>
#include <random>
#include <vector>

#include "math/operand/float.h"
#include "saccade/attention.h"

namespace saccade::test {

/// A contiguous tensor that owns its memory; elements are read and written as double.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::vector<int64_t> shape) {
    view_ = contiguous_view(nullptr, dtype, static_cast<int>(shape.size()), shape.data());
    bytes_.resize(static_cast<size_t>(view_.numel() * dtype_size(dtype)) + 1);
    view_.data = bytes_.data();
  }
  Tensor(DType dtype, std::vector<int64_t> shape, std::initializer_list<double> values)
      : Tensor(dtype, std::move(shape)) {
    int64_t i = 0;
    for (double v : values) set(i++, v);
  }
  Tensor(const Tensor& t) : bytes_(t.bytes_), view_(t.view_) { view_.data = bytes_.data(); }
  Tensor& operator=(Tensor t) {
    bytes_.swap(t.bytes_);
    view_ = t.view_;
    view_.data = bytes_.data();
    return *this;
  }

  explicit operator bool() const { return bool(view_); }
  TensorView view() const { return view_; }
  int64_t numel() const { return view_.numel(); }
  DType dtype() const { return view_.dtype; }
  const std::vector<unsigned char>& bytes() const { return bytes_; }
  std::vector<int64_t> shape() const { return {view_.shape, view_.shape + view_.rank}; }

  double get(int64_t i) const {
    switch (view_.dtype) {
      case DType::f64:
        return as<double>()[i];
      case DType::f32:
        return as<float>()[i];
      case DType::bf16:
        return math::Bf16::load(as<math::Bf16::Storage>()[i]);
      case DType::f16:
        return math::F16::load(as<math::F16::Storage>()[i]);
      case DType::i32:
        return as<int32_t>()[i];
      default:
        return as<uint8_t>()[i];
    }
  }
  void set(int64_t i, double x) {
    switch (view_.dtype) {
      case DType::f64:
        as<double>()[i] = x;
        break;
      case DType::f32:
        as<float>()[i] = static_cast<float>(x);
        break;
      case DType::bf16:
        as<math::Bf16::Storage>()[i] = math::Bf16::store(static_cast<float>(x));
        break;
      case DType::f16:
        as<math::F16::Storage>()[i] = math::F16::store(static_cast<float>(x));
        break;
      case DType::i32:
        as<int32_t>()[i] = static_cast<int32_t>(x);
        break;
      default:
        as<uint8_t>()[i] = x != 0;
    }
  }
  void fill(double x) {
    for (int64_t i = 0; i < numel(); ++i) set(i, x);
  }

 private:
  template <class T>
  T* as() const {
    return static_cast<T*>(view_.data);
  }
  std::vector<unsigned char> bytes_;
  TensorView view_;
};

inline Tensor normal(DType dtype, std::vector<int64_t> shape, std::mt19937& rng, double mean = 0,
                     double deviation = 1) {
  Tensor t(dtype, std::move(shape));
  std::normal_distribution<double> draw(mean, deviation);
  for (int64_t i = 0; i < t.numel(); ++i) t.set(i, draw(rng));
  return t;
}

/// 64-byte aligned scratch memory.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : bytes_(static_cast<size_t>(bytes) + 64) {}
  void* data() { return bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64; }

 private:
  std::vector<unsigned char> bytes_;
};

/// Owns every tensor of a problem; an unset tensor is absent.
struct Attention {
  Tensor query, key, value, bias, alibi_slopes, temperature, sinks, head_gate, relative_keys, relative_bias,
      cu_seqlens_q, cu_seqlens_k;
  Tensor out, lse, dout, dlse;
  Tensor dquery, dkey, dvalue, dbias, dalibi_slopes, dtemperature, dsinks, dhead_gate, drelative_keys, drelative_bias;
  ScoreSpec score;  // options without tensors
  VisitSpec visit;

  static Tensor like(const Tensor& t) { return t ? Tensor(t.dtype(), t.shape()) : Tensor(); }

  /// out and lse for the query, key and value.
  void make_outputs() {
    std::vector<int64_t> shape = query.shape();
    const DType statistic = query.dtype() == DType::f64 ? DType::f64 : DType::f32;
    lse = Tensor(statistic, {shape.begin(), shape.end() - 1});
    shape.back() = value.shape().back();
    out = Tensor(query.dtype(), shape);
  }

  void make_gradients() {
    dquery = like(query), dkey = like(key), dvalue = like(value);
    if (bias.dtype() != DType::boolean) dbias = like(bias);
    dalibi_slopes = like(alibi_slopes), dtemperature = like(temperature), dsinks = like(sinks),
    dhead_gate = like(head_gate), drelative_keys = like(relative_keys), drelative_bias = like(relative_bias);
  }

  void fill_base(AttentionProblem& p) const {
    p.query = query.view(), p.key = key.view(), p.value = value.view();
    p.score = score, p.visit = visit;
    p.score.bias = bias.view(), p.score.alibi_slopes = alibi_slopes.view(), p.score.temperature = temperature.view();
    p.score.sinks = sinks.view(), p.score.head_gate = head_gate.view();
    p.score.relative_keys = relative_keys.view(), p.score.relative_bias = relative_bias.view();
    p.visit.cu_seqlens_q = cu_seqlens_q.view(), p.visit.cu_seqlens_k = cu_seqlens_k.view();
  }
  AttentionForward forward() const {
    AttentionForward p;
    fill_base(p);
    p.out = out.view(), p.lse = lse.view();
    return p;
  }
  AttentionBackward backward() const {
    AttentionBackward p;
    fill_base(p);
    p.out = out.view(), p.lse = lse.view(), p.dout = dout.view(), p.dlse = dlse.view();
    p.dquery = dquery.view(), p.dkey = dkey.view(), p.dvalue = dvalue.view();
    p.dbias = dbias.view(), p.dalibi_slopes = dalibi_slopes.view(), p.dtemperature = dtemperature.view();
    p.dsinks = dsinks.view(), p.dhead_gate = dhead_gate.view();
    p.drelative_keys = drelative_keys.view(), p.drelative_bias = drelative_bias.view();
    return p;
  }

  void run_forward(const Context& context) const {
    const AttentionForward p = forward();
    Workspace w(workspace_bytes(p, context));
    attention_forward(p, context, w.data());
  }
  void run_backward(const Context& context) const {
    const AttentionBackward p = backward();
    Workspace w(workspace_bytes(p, context));
    attention_backward(p, context, w.data());
  }
};

inline Context reference() {
  Context c;
  c.kernel = "cpu.reference.attention";
  return c;
}

}  // namespace saccade::test
